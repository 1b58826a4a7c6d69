#include "tests/unit/files/files_process.hpp"

#include <random>

using namespace pyro;
using namespace pyro::test;

namespace {

wire::Entry entry(std::string path) {
    wire::Entry entry;
    entry.mode = 0644;
    entry.size = 5;
    entry.mtime_s = -3;
    entry.mtime_ns = 999'999'999;
    entry.path = std::move(path);
    return entry;
}

std::vector<wire::Record> sample() {
    wire::Entry link = entry("b\n\xff");
    link.kind = wire::Kind::symlink;
    link.size = 0;
    link.target = "/etc/passwd";
    wire::Done done;
    done.files = 1;
    done.bytes = 1ull << 60;
    done.more = true;
    return {entry("a"), wire::Note{wire::Reason::mount_point, "a/b"}, link, entry("c/d"), done};
}

std::string encoded(const std::vector<wire::Record>& records) {
    std::string bytes;
    for (const wire::Record& record : records) bytes += wire::encode(record);
    return bytes;
}

std::vector<wire::Record> decoded(std::string_view bytes, std::size_t piece) {
    std::vector<wire::Record> records;
    wire::Decoder decoder;
    for (; !bytes.empty(); bytes.remove_prefix(std::min(piece, bytes.size()))) {
        decoder.feed(bytes.substr(0, piece));
        while (auto record = decoder.next()) records.push_back(std::move(*record));
    }
    decoder.finish();
    return records;
}

// guest_failed, or nothing.
bool refused(std::string_view bytes) {
    try {
        decoded(bytes, bytes.size() + 1);
        return false;
    } catch (const Error& error) {
        CHECK(error.code() == ErrorCode::guest_failed);
        return true;
    }
}

}  // namespace

TEST_CASE("records come out as they went in, in pieces of any size") {
    const std::string bytes = encoded(sample());
    for (const std::size_t piece : {std::size_t{1}, std::size_t{2}, std::size_t{7}, bytes.size()}) CHECK(decoded(bytes, piece) == sample());
    wire::Entry longest = entry(std::string(255, 'x'));
    while (longest.path.size() + 256 <= wire::max_path_bytes) longest.path += "/" + std::string(255, 'x');
    longest.kind = wire::Kind::symlink;
    longest.size = 0;
    longest.target = std::string(wire::max_target_bytes, 't');
    CHECK(decoded(encoded({longest, wire::Done{}}), 1000) == std::vector<wire::Record>{longest, wire::Done{}});
}

TEST_CASE("a stream that ends anywhere but behind its end is refused") {
    const std::string bytes = encoded(sample());
    for (std::size_t length = 0; length < bytes.size(); ++length) CHECK(refused(std::string_view(bytes).substr(0, length)));
    CHECK(refused(bytes + '\0'));
    CHECK(refused(bytes + encoded({wire::Done{}})));
}

TEST_CASE("what makes no sense is refused") {
    const auto with = [](auto change) {
        wire::Entry one = entry("a");
        change(one);
        return encoded({one, wire::Done{}});
    };
    CHECK_FALSE(refused(with([](wire::Entry&) {})));
    const std::string no_path(256, 'x');
    for (const std::string& path : {std::string(), std::string("/a"), std::string("a/"), std::string("a//b"), std::string(".."), std::string("a/../b"),
                                    std::string("./a"), std::string("a/."), std::string("a\0b", 3), no_path, std::string("a/") + no_path}) {
        INFO(path);
        CHECK(refused(with([&](wire::Entry& one) { one.path = path; })));
        CHECK(refused(encoded({wire::Note{wire::Reason::special, path}, wire::Done{}})));
    }
    std::string deep = "a";
    while (deep.size() <= wire::max_path_bytes) deep += "/a";
    CHECK(refused(with([&](wire::Entry& one) { one.path = deep; })));
    CHECK(refused(with([](wire::Entry& one) { one.mode = 010000; })));
    CHECK(refused(with([](wire::Entry& one) { one.size = 1ull << 63; })));
    CHECK(refused(with([](wire::Entry& one) { one.mtime_ns = 1'000'000'000; })));
    CHECK(refused(with([](wire::Entry& one) { one.target = "x"; })));
    CHECK(refused(with([](wire::Entry& one) { one.kind = wire::Kind::directory; })));  // with a size
    CHECK(refused(with([](wire::Entry& one) { one.kind = wire::Kind::symlink, one.size = 0; })));
    CHECK(refused(with([](wire::Entry& one) { one.kind = wire::Kind{0}; })));
    CHECK(refused(with([](wire::Entry& one) { one.kind = wire::Kind{5}; })));
    CHECK(refused(with([](wire::Entry& one) { one.kind = wire::Kind::symlink, one.size = 0, one.target = std::string(4096, 't'); })));
    CHECK(refused(with([](wire::Entry& one) { one.kind = wire::Kind::symlink, one.size = 0, one.target = std::string("t\0t", 3); })));
    CHECK(refused(encoded({wire::Note{wire::Reason{0}, "a"}, wire::Done{}})));
    CHECK(refused(encoded({wire::Note{wire::Reason{10}, "a"}, wire::Done{}})));
    CHECK(refused(encoded({entry("b"), entry("a"), wire::Done{}})));
    CHECK(refused(encoded({entry("a"), entry("a"), wire::Done{}})));
    // Lengths are believed before anything is waited for.
    wire::Decoder decoder;
    decoder.feed(std::string_view("\xff\xff\xff\x7f", 4));
    CHECK_THROWS_AS(decoder.next(), Error);
    wire::Decoder empty;
    empty.feed(std::string_view("\0\0\0\0", 4));
    CHECK_THROWS_AS(empty.next(), Error);
}

TEST_CASE("no byte that a guest changes does more than be refused") {
    const std::string bytes = encoded(sample());
    std::size_t refusals = 0;
    for (std::size_t at = 0; at < bytes.size(); ++at)
        for (const char flip : {'\x01', '\x80', '\xff'}) {
            std::string changed = bytes;
            changed[at] = static_cast<char>(changed[at] ^ flip);
            refusals += refused(changed) ? 1u : 0u;
        }
    CHECK(refusals > bytes.size());
    std::mt19937 random(1);
    for (int round = 0; round < 2000; ++round) {
        std::string garbage(random() % 200, '\0');
        for (char& byte : garbage) byte = static_cast<char>(random());
        if (round % 2 == 0 && garbage.size() > 4) garbage[0] = static_cast<char>(garbage.size() - 4), garbage[1] = garbage[2] = garbage[3] = 0, garbage[4] = static_cast<char>(1 + round % 3);
        CHECK(refused(garbage));
    }
}

TEST_CASE("a failure comes out as it went in, and what is none reads as one of the guest") {
    const Error error = wire::decode_failure(wire::encode_failure(Error(ErrorCode::quota_exceeded, "no space", "remove")));
    CHECK(error.code() == ErrorCode::quota_exceeded);
    CHECK(error.message() == "no space");
    CHECK(error.hint() == "remove");
    CHECK(wire::decode_failure(std::string_view("not_found\0a\nb\x1b\0\0", 16)).message() == "a?b?");
    const std::string whole = wire::encode_failure(Error(ErrorCode::not_found, std::string(9000, 'm'), std::string(9000, 'h')));
    CHECK(whole.size() <= wire::max_failure_bytes);
    CHECK(wire::decode_failure(whole).code() == ErrorCode::not_found);
    for (std::size_t length = 0; length < whole.size(); length += length < 40 ? 1 : 97)
        CHECK(wire::decode_failure(whole.substr(0, length)).code() == ErrorCode::guest_failed);
    for (const std::string& bytes : {std::string("Segmentation fault\n"), std::string("nonsense\0m\0h\0", 13), std::string("not_found\0m\0h\0x", 15),
                                     std::string("not_found\0\0h\0", 13), std::string(5000, '\0')})
        CHECK(wire::decode_failure(bytes).code() == ErrorCode::guest_failed);
}

TEST_CASE("UTF-8 is told from what is not") {
    CHECK(wire::utf8_sequence("a") == 1);
    CHECK(wire::utf8_sequence("\xc3\xbc") == 2);
    CHECK(wire::utf8_sequence("\xe2\x82\xac") == 3);
    CHECK(wire::utf8_sequence("\xf0\x9f\x98\x80") == 4);
    for (const char* bad : {"", "\x80", "\xc0\xaf", "\xc3", "\xc3(", "\xe0\x80\xaf", "\xed\xa0\x80", "\xf0\x80\x80\xaf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80"})
        CHECK(wire::utf8_sequence(bad) == 0);
}

namespace {

std::vector<wire::Record> decoded_as(wire::Decoder::Stream stream, std::string_view bytes, std::size_t piece) {
    std::vector<wire::Record> records;
    wire::Decoder decoder(stream);
    for (; !bytes.empty(); bytes.remove_prefix(std::min(piece, bytes.size()))) {
        decoder.feed(bytes.substr(0, piece));
        while (auto record = decoder.next()) records.push_back(std::move(*record));
    }
    decoder.finish();
    return records;
}

bool refused_as(wire::Decoder::Stream stream, std::string_view bytes) {
    try {
        decoded_as(stream, bytes, bytes.size() + 1);
        return false;
    } catch (const Error& error) {
        CHECK(error.code() == ErrorCode::guest_failed);
        return true;
    }
}

constexpr auto changes = wire::Decoder::Stream::changes;
constexpr auto rejections = wire::Decoder::Stream::rejections;

wire::Change change(std::string path) {
    wire::Change one;
    one.path = std::move(path);
    one.added = 3;
    return one;
}

wire::Rejection rejection() { return {2, 7, 1ull << 40, "a/b", "does not fit", {"one", ""}, {"\x1b[2J", "\xff"}}; }

std::vector<wire::Record> sample_changes() {
    wire::Change renamed = change("b\n\xff");
    renamed.kind = wire::ChangeKind::renamed;
    renamed.old_path = "a";
    wire::Change binary = change("c");
    binary.kind = wire::ChangeKind::deleted;
    binary.binary = true;
    binary.added = 0;
    wire::Change noted = change("d");
    noted.added = 0;
    noted.note = wire::Reason::in_the_way;
    return {change("a/b"), renamed, wire::Note{wire::Reason::mount_point, "b"}, binary, noted, wire::Done{}};
}

}  // namespace

TEST_CASE("changes and rejections come out as they went in") {
    const std::vector<wire::Record> rejected{rejection(), wire::Rejection{0, 1, 0, "c", "this exists already", {}, {}}, wire::Done{}};
    for (const std::size_t piece : {std::size_t{1}, std::size_t{7}, std::size_t{5000}}) {
        CHECK(decoded_as(changes, encoded(sample_changes()), piece) == sample_changes());
        CHECK(decoded_as(rejections, encoded(rejected), piece) == rejected);
    }
    wire::Rejection loud = rejection();
    loud.reason = "a\x1b[31m\n";
    const auto heard = decoded_as(rejections, encoded({loud, wire::Done{}}), 100);
    CHECK(std::get<wire::Rejection>(heard.at(0)).reason == "a?[31m?");
}

TEST_CASE("a record of another stream, or one too many, is refused") {
    const std::string of_change = encoded({change("a"), wire::Done{}}), of_rejection = encoded({rejection(), wire::Done{}}), of_entry = encoded({entry("a"), wire::Done{}}),
                      of_note = encoded({wire::Note{wire::Reason::special, "a"}, wire::Done{}});
    CHECK(refused(of_change));
    CHECK(refused(of_rejection));
    CHECK(refused_as(changes, of_entry));
    CHECK(refused_as(changes, of_rejection));
    CHECK(refused_as(rejections, of_entry));
    CHECK(refused_as(rejections, of_change));
    CHECK(refused_as(rejections, of_note));
    CHECK_FALSE(refused_as(changes, of_note));
    std::string many;
    for (std::size_t i = 0; i <= wire::max_rejections; ++i) many += wire::encode(rejection());
    CHECK(refused_as(rejections, many + wire::encode(wire::Done{})));
    many.clear();
    for (std::size_t i = 0; i <= wire::max_changes; ++i) many += wire::encode(change("f" + std::to_string(1'000'000 + i)));
    CHECK(refused_as(changes, many + wire::encode(wire::Done{})));
    CHECK(refused_as(changes, encoded({change("b"), change("a"), wire::Done{}})));
    CHECK(refused_as(changes, encoded({change("a"), change("a"), wire::Done{}})));
}

TEST_CASE("changes and rejections that make no sense are refused") {
    const auto changed = [](auto how) {
        wire::Change one = change("a");
        how(one);
        return refused_as(changes, encoded({one, wire::Done{}}));
    };
    CHECK_FALSE(changed([](wire::Change&) {}));
    for (const std::string& path : {std::string(), std::string("."), std::string("/a"), std::string("a/"), std::string("../a"), std::string("a//b"), std::string("a\0b", 3),
                                    std::string(256, 'x'), std::string("a") + std::string(4100, '/')}) {
        CHECK(changed([&](wire::Change& one) { one.path = path; }));
        CHECK(changed([&](wire::Change& one) { one.kind = wire::ChangeKind::renamed, one.old_path = path; }));
        wire::Rejection one = rejection();
        one.path = path;
        CHECK(refused_as(rejections, encoded({one, wire::Done{}})));
    }
    std::string deep = "a";
    while (deep.size() <= wire::max_patch_path_bytes) deep += "/a";
    CHECK(changed([&](wire::Change& one) { one.path = deep; }));
    CHECK(changed([](wire::Change& one) { one.kind = wire::ChangeKind{0}; }));
    CHECK(changed([](wire::Change& one) { one.kind = wire::ChangeKind{7}; }));
    CHECK(changed([](wire::Change& one) { one.note = wire::Reason{10}, one.added = 0; }));
    CHECK(changed([](wire::Change& one) { one.note = wire::Reason::changed; }));  // with lines
    CHECK(changed([](wire::Change& one) { one.binary = true; }));
    CHECK(changed([](wire::Change& one) { one.kind = wire::ChangeKind::mode; }));
    CHECK(changed([](wire::Change& one) { one.added = wire::max_patch_bytes + 1; }));
    CHECK(changed([](wire::Change& one) { one.deleted = UINT64_MAX; }));
    CHECK(changed([](wire::Change& one) { one.kind = wire::ChangeKind::renamed; }));
    CHECK(changed([](wire::Change& one) { one.kind = wire::ChangeKind::renamed, one.old_path = "a"; }));
    CHECK(changed([](wire::Change& one) { one.old_path = "b"; }));

    const auto rejected = [](auto how) {
        wire::Rejection one = rejection();
        how(one);
        return refused_as(rejections, encoded({one, wire::Done{}}));
    };
    CHECK_FALSE(rejected([](wire::Rejection&) {}));
    CHECK(rejected([](wire::Rejection& one) { one.reason.clear(); }));
    CHECK(rejected([](wire::Rejection& one) { one.reason = std::string(1001, 'r'); }));
    CHECK(rejected([](wire::Rejection& one) { one.expected = std::vector<std::string>(22); }));
    CHECK(rejected([](wire::Rejection& one) { one.found = std::vector<std::string>(22); }));
    CHECK(rejected([](wire::Rejection& one) { one.found = {std::string(513, 'x')}; }));
    CHECK(rejected([](wire::Rejection& one) { one.found = {"a\nb"}; }));
    CHECK(rejected([](wire::Rejection& one) { one.hunk = 0; }));
}

TEST_CASE("no byte of changes or rejections does more than be refused") {
    for (const auto& [stream, bytes] : {std::pair(changes, encoded(sample_changes())), std::pair(rejections, encoded({rejection(), rejection(), wire::Done{}}))}) {
        std::size_t refusals = 0;
        for (std::size_t length = 0; length < bytes.size(); ++length) CHECK(refused_as(stream, std::string_view(bytes).substr(0, length)));
        for (std::size_t at = 0; at < bytes.size(); ++at)
            for (const char flip : {'\x01', '\x80', '\xff'}) {
                std::string altered = bytes;
                altered[at] = static_cast<char>(altered[at] ^ flip);
                refusals += refused_as(stream, altered) ? 1u : 0u;
            }
        CHECK(refusals > bytes.size());
    }
    std::mt19937 random(2);
    for (int round = 0; round < 2000; ++round) {
        std::string garbage(random() % 200, '\0');
        for (char& byte : garbage) byte = static_cast<char>(random());
        if (round % 2 == 0 && garbage.size() > 4) garbage[0] = static_cast<char>(garbage.size() - 4), garbage[1] = garbage[2] = garbage[3] = 0, garbage[4] = static_cast<char>(4 + round % 4 / 2);
        CHECK(refused_as(round % 3 ? changes : rejections, garbage));
    }
}
