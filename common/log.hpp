// What the daemon tells its administrator: records with fields in the journal where systemd started it, else lines on standard error.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace pyro::log {

enum class Level { error = 3, warning = 4, info = 6 };  // syslog's

// Of the journal: capital letters, digits and underscores.
struct Field {
    std::string_view name;
    std::string value;
};

// One record. Bytes that a terminal or a reader of logs would obey are replaced. What is only info has no place on standard error.
void say(Level level, std::string_view text, const std::vector<Field>& fields = {}) noexcept;

}  // namespace pyro::log
