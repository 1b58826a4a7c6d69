#pragma once
#include <nlohmann/json.hpp>

namespace pyro::proto {
template <class T>
nlohmann::json to_wire(const T& value) { return encode(type_of<T>(), &value); }
}  // namespace pyro::proto
