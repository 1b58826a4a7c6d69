// Exports: a canonical tar stream from a guest, which may be hostile, becomes files below a destination that the user named.
#pragma once
#include <cstdint>
#include <functional>
#include <stop_token>
#include <string>

#include "client/seed/tar_stream.hpp"

namespace pyro::client::seed {

enum class Shape {
    tree,     // the destination is a directory, made or merged into
    file,     // the stream is one file, and the destination that file
    tar_zst,  // the destination is an archive of the stream, written anew: with nothing that is not canonical
};

struct UnpackOptions {
    Shape shape = Shape::tree;
    // What of the stream becomes the destination ("src/lib" where the guest was asked for that): its names are taken without it, and
    // everything else in the stream is refused. Empty: all of it.
    std::string prefix;
    // Names of the stream, without the prefix, that are not written; none of their kind are told to be in the way either.
    std::function<bool(std::string_view path)> leave_out = {};
    bool follow = true;  // the destination may be a link; else that is refused
    bool force = false;  // replace files and links that are there. Never a directory by something else
    Limits limits;       // `ratio` does not matter: nothing is packed
    std::stop_token stop;
};

struct Unpacked {
    std::uint64_t files = 0, directories = 0, symlinks = 0;
    std::uint64_t bytes = 0;  // of files
    std::uint64_t left_out = 0;
};

// Everything is unpacked beside its place first and moved there when all of it has come and nothing is in the way: on an error
// the destination is as it was, except that one which comes up while a tree is moved into an existing directory leaves it merged in
// part. The destination itself may be a link (the user named it); below it no link is followed, those of the stream among them.
// Existing directories keep their modes and times. Hard links, devices, fifos and a stream that is cut short are refused.
// Throws invalid_argument, with the name, for what a rule refuses; failed_precondition for what is in the way; Cancelled.
Unpacked unpack(const Source& stream, const std::string& destination, const UnpackOptions& options = {});

}  // namespace pyro::client::seed
