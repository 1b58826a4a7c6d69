#include "common/error.hpp"
#include "common/unique_fd.hpp"
#include "daemon/workspace/journal.hpp"
#include "tests/support/catch.hpp"

#include <filesystem>
#include <random>

#include <csignal>
#include <sys/resource.h>
#include <unistd.h>

using namespace pyro;
using namespace pyro::workspace;

namespace {

struct TemporaryDirectory {
    TemporaryDirectory() {
        char name[] = "/tmp/pyro-journal-test-XXXXXX";
        path = ::mkdtemp(name);
    }
    ~TemporaryDirectory() { std::filesystem::remove_all(path); }
    std::string path;
};

// What a follower gets who begins at `offset`: the pieces with their offsets, as one text with gaps marked.
std::string followed(const Journal& journal, std::uint64_t offset, std::size_t at_once = 7) {
    std::string out;
    for (;;) {
        const Journal::Piece piece = journal.read(offset, at_once);
        if (piece.offset != offset) out += "[" + std::to_string(piece.offset - offset) + "]";
        if (piece.bytes.empty()) return out;
        REQUIRE(piece.bytes.size() <= at_once);
        out += piece.bytes;
        offset = piece.offset + piece.bytes.size();
    }
}

}  // namespace

TEST_CASE("a journal gives back what it was given while that is little") {
    TemporaryDirectory directory;
    Journal journal = Journal::create(directory.path + "/out", 20);
    REQUIRE(followed(journal, 0).empty());
    journal.append("0123456789");
    journal.append("");
    journal.append("abcdefghij");
    REQUIRE(journal.total() == 20);
    REQUIRE(journal.elided() == 0);
    REQUIRE(followed(journal, 0) == "0123456789abcdefghij");
    REQUIRE(followed(journal, 4) == "456789abcdefghij");
    REQUIRE(followed(journal, 15) == "fghij");
    REQUIRE(followed(journal, 20).empty());
    REQUIRE(journal.read(100, 5).offset == 100);
    REQUIRE(journal.read(100, 5).bytes.empty());
}

TEST_CASE("of more than it may keep, a journal keeps the head and the tail, and says where the gap is") {
    TemporaryDirectory directory;
    Journal journal = Journal::create(directory.path + "/out", 20);
    journal.append("0123456789abcdefghijklm");
    REQUIRE(journal.total() == 23);
    REQUIRE(journal.elided() == 3);
    REQUIRE(followed(journal, 0) == "0123456789[3]defghijklm");
    REQUIRE(followed(journal, 11) == "[2]defghijklm");
    REQUIRE(followed(journal, 14) == "efghijklm");
    journal.append(std::string(95, 'x') + "THE END..");
    REQUIRE(journal.total() == 127);
    REQUIRE(journal.elided() == 107);
    REQUIRE(followed(journal, 3) == "3456789[107]xTHE END..");
}

TEST_CASE("whatever pieces it comes in, a journal is the head and the tail of the whole") {
    TemporaryDirectory directory;
    std::mt19937 random(17);
    for (int round = 0; round < 200; ++round) {
        const std::uint64_t limit = 2 + random() % 60, half = limit / 2;
        const std::string path = directory.path + "/" + std::to_string(round);
        Journal journal = Journal::create(path, limit);
        std::string whole;
        for (std::size_t pieces = random() % 12; pieces > 0; --pieces) {
            std::string piece(random() % (3 * limit), ' ');
            for (char& c : piece) c = static_cast<char>('a' + random() % 26);
            whole += piece;
            journal.append(piece);
            if (random() % 3 == 0) journal = Journal::open(path);  // as a daemon that was restarted
        }
        if (random() % 2 == 0) journal.close();
        INFO("limit " << limit << ", " << whole.size() << " bytes");
        REQUIRE(journal.total() == whole.size());
        std::string expected = whole;
        if (whole.size() > 2 * half) expected = whole.substr(0, half) + "[" + std::to_string(whole.size() - 2 * half) + "]" + whole.substr(whole.size() - half);
        REQUIRE(followed(journal, 0, 1 + random() % 20) == expected);
        REQUIRE(std::filesystem::file_size(path) <= 64 + 2 * half);
    }
}

TEST_CASE("what is no journal is refused") {
    TemporaryDirectory directory;
    const std::string path = directory.path + "/out";
    replace_file(path, "");
    REQUIRE_THROWS_AS(Journal::open(path), Error);
    replace_file(path, std::string(200, 'x'));
    REQUIRE_THROWS_AS(Journal::open(path), Error);
    REQUIRE_THROWS_AS(Journal::open(directory.path + "/none"), Error);
    Journal::create(path + "2", 100).append("hello");
    REQUIRE_THROWS_AS(Journal::create(path + "2", 100), Error);
    std::filesystem::resize_file(path + "2", 64);
    const Journal cut = Journal::open(path + "2");
    REQUIRE_THROWS_AS(cut.read(0, 10), Error);
}

TEST_CASE("where there is no space, bytes are counted, and what comes when there is some again is kept") {
    TemporaryDirectory directory;
    // A limit of the file's size is a disk that is full there: 64 bytes of header and 6 of content.
    std::signal(SIGXFSZ, SIG_IGN);
    rlimit before{};
    REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
    Journal journal = Journal::create(directory.path + "/out", 40);
    journal.append("head");
    const rlimit full{70, before.rlim_max};
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &full) == 0);
    journal.append("-lost");
    journal.append("-gone");
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
    journal.append("-again-and-more");
    REQUIRE(journal.total() == 29);
    REQUIRE(journal.elided() == 10);
    REQUIRE(followed(journal, 0) == "head[10]-again-and-more");
    REQUIRE(followed(Journal::open(directory.path + "/out"), 0) == "head[10]-again-and-more");
    journal.append(std::string(100, 'x'));
    REQUIRE(followed(journal, 0, 100) == "head[105]" + std::string(20, 'x'));
}
