// The part of proto/codec.hpp that needs JSON complete. Included by it alone.
#pragma once
#include <nlohmann/json.hpp>

namespace pyro::proto {
template <class T>
nlohmann::json to_wire(const T& value) { return encode(type_of<T>(), &value); }
}  // namespace pyro::proto
