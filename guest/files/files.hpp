// `pyro-guest files OP ...`: what is done to the files of a workspace, by an ordinary process with the rights of its user.
//
//     list PATH [--recursive] [--limit N] [--after PATH]
//     stat PATH
//     read PATH [--offset N] [--limit N]
//     write PATH [--mode OCTAL] [--parents] [--create | --replace] [--length N] [--owner UID:GID]
//     remove PATH [--recursive]
//     unpack [--dest PATH] [--replace-all] [--staging DIR] [--owner UID:GID]
//     apply [--staging DIR] [--owner UID:GID]
//     recover [--staging DIR]
//     pack PATH...
//     diff --upper DIR --lower DIR [--verify] [--max-bytes N] [PATH...]
//
// each with [--root DIR], /workspace if not given. PATH is relative to it, or absolute beneath it. An argument behind "--" is a
// path, whatever it looks like. operations.hpp says what each does, proto/files.hpp what they say.
#pragma once

namespace pyro::guest::files {

// The arguments behind `files`; returns the exit status. Nothing is thrown.
int run(int count, char** arguments);

}  // namespace pyro::guest::files
