#include "client/transfer/new_file.hpp"

#include "client/seed/tar_stream.hpp"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

namespace pyro::client {

using seed::printable;

NewFile::NewFile(std::string path, bool force, const std::string& how, std::string shown)
    : path_(std::move(path)), shown_(shown.empty() ? path_ : std::move(shown)), how_(how), force_(force) {
    static std::atomic<unsigned> count = 0;
    struct stat info {};
    if (::lstat(path_.c_str(), &info) == 0 && !force_) throw exists_already(shown_, how_);
    const std::size_t slash = path_.rfind('/');
    temporary_ = (slash == std::string::npos ? std::string() : path_.substr(0, slash + 1)) + ".pyro-" + std::to_string(::getpid()) + "-" + std::to_string(++count);
    fd_ = open_file(temporary_, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0666);
}

NewFile::~NewFile() {
    if (fd_) ::unlink(temporary_.c_str());
}

void NewFile::place() {
    if (::fsync(fd_.get()) != 0) throw Error::from_errno("write " + printable(shown_));
    if (::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, path_.c_str(), force_ ? 0 : RENAME_NOREPLACE) != 0) {
        if (errno == EEXIST) throw exists_already(shown_, how_);
        throw Error::from_errno("write " + printable(shown_));
    }
    fd_.reset();
}

Error NewFile::exists_already(const std::string& shown, const std::string& how) {
    return Error(ErrorCode::failed_precondition, printable(shown) + " exists", "name another destination, or replace what is there with " + how);
}

Error renamed(const Error& error, const std::string& from, const std::string& to) {
    std::string message = error.message();
    for (std::size_t at = 0; !from.empty() && from != to && (at = message.find(from, at)) != std::string::npos; at += to.size()) message.replace(at, from.size(), to);
    Error out = Error(error.code(), std::move(message), error.hint()).with_retryable(error.retryable());
    for (const auto& [key, value] : error.details()) out.with_detail(key, value);
    return out;
}

}  // namespace pyro::client
