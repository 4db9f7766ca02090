// Reads a directory that `refscale golden write DIR` made, and tests a backend in C++ against it.
//
//     c++ -std=c++17 -O1 -ffp-contract=off -o reader reader.cpp && ./reader DIR
//
// It reads the directory only: manifests, arrays, and formats.json. The backend here converts formats of the
// table to nearest even, decodes codes, and multiplies matrices with float32 sums, within the bound of README.md.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

// ---- JSON ------------------------------------------------------------------------------------------------------------

struct Json {
    enum Kind { null, boolean, number, text, list, object } kind = null;
    double value = 0;
    std::string string;
    std::vector<Json> items;
    std::map<std::string, Json> members;

    const Json &operator[](const std::string &name) const { return members.at(name); }
    const Json &operator[](size_t i) const { return items.at(i); }
    bool has(const std::string &name) const { return members.count(name) != 0; }
};

struct Parser {
    const char *at;

    void space() { at += std::strspn(at, " \n\r\t"); }

    void expect(char c) {
        space();
        if (*at++ != c) throw std::runtime_error(std::string("JSON: expected ") + c);
    }

    std::string quoted() {
        std::string found;
        expect('"');
        for (; *at != '"'; at++) {
            if (*at != '\\') found += *at;
            else if (*++at == 'u') { found += '?'; at += 4; }  // only in prose
            else found += *at == 'n' ? '\n' : *at;
        }
        at++;
        return found;
    }

    Json parse() {
        Json x;
        space();
        if (*at == '{' || *at == '[') {
            const bool named = *at == '{';
            const char end = named ? '}' : ']';
            x.kind = named ? Json::object : Json::list;
            at++;
            for (space(); *at != end; space()) {
                if (named) {
                    const std::string name = quoted();
                    expect(':');
                    x.members[name] = parse();
                } else {
                    x.items.push_back(parse());
                }
                space();
                if (*at == ',') at++;
            }
            at++;
        } else if (*at == '"') {
            x.kind = Json::text;
            x.string = quoted();
        } else if (!std::strncmp(at, "true", 4) || !std::strncmp(at, "false", 5)) {
            x.kind = Json::boolean;
            x.value = *at == 't';
            at += *at == 't' ? 4 : 5;
        } else if (!std::strncmp(at, "null", 4)) {
            at += 4;
        } else {
            char *after;
            x.kind = Json::number;
            x.value = std::strtod(at, &after);
            if (after == at) throw std::runtime_error("JSON: expected a value");
            at = after;
        }
        return x;
    }
};

static std::string contents(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("cannot read " + path);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

static Json json(const std::string &path) {
    const std::string text = contents(path);
    Parser parser{text.c_str()};
    return parser.parse();
}

// ---- formats ---------------------------------------------------------------------------------------------------------

struct Format {
    int bits, mantissa, bias;
    bool is_signed, has_zero, twos_complement, signed_zero, signed_nan;
    double max;
    std::string nan_rule;
    uint64_t infinity = 0, nan = 0;
    bool has_infinity = false, has_nan = false;

    explicit Format(const Json &f)
        : bits(int(f["bits"].value)), mantissa(int(f["mantissa_bits"].value)), bias(int(f["bias"].value)),
          is_signed(f["signed"].value != 0), has_zero(f["has_zero"].value != 0),
          twos_complement(f["twos_complement"].value != 0), signed_zero(f["signed_zero"].value != 0),
          signed_nan(f["signed_nan"].value != 0), max(f["max"].value), nan_rule(f["nan_rule"].string) {
        has_infinity = f["infinity_code"].kind == Json::number;
        has_nan = f["nan_code"].kind == Json::number;
        if (has_infinity) infinity = uint64_t(f["infinity_code"].value);
        if (has_nan) nan = uint64_t(f["nan_code"].value);
    }

    uint64_t sign() const { return is_signed ? uint64_t(1) << (bits - 1) : 0; }

    double decode(uint64_t code) const {
        if (twos_complement) {
            const int64_t whole = code & sign() ? int64_t(code) - (int64_t(1) << bits) : int64_t(code);
            return std::ldexp(double(whole), -mantissa);
        }
        const uint64_t rest = code & ~sign(), top = sign() ? sign() - 1 : (uint64_t(1) << bits) - 1;
        const double s = code & sign() ? -1 : 1;
        const uint64_t fraction = rest & ((uint64_t(1) << mantissa) - 1);
        const int exponent = int(rest >> mantissa);
        if (nan_rule == "negative_zero" && code == sign()) return NAN;
        if (nan_rule == "all_ones" && rest == top) return std::copysign(NAN, s);
        if (nan_rule == "top_exponent" && exponent == int(top >> mantissa)) return fraction ? std::copysign(NAN, s) : s * INFINITY;
        if (exponent == 0 && has_zero) return s * std::ldexp(double(fraction), 1 - bias - mantissa);
        return s * std::ldexp(double(fraction + (uint64_t(1) << mantissa)), exponent - bias - mantissa);
    }

    // To nearest, ties to even. A negative result means "no code".
    int64_t encode(double x, bool saturate) const {
        const uint64_t s = std::signbit(x) && !twos_complement ? sign() : 0;
        if (std::isnan(x)) return has_nan ? int64_t(nan | (signed_nan ? s : 0)) : -1;
        double size = std::fabs(x);
        const int lowest = (has_zero ? 1 : 0) - bias;
        if (size > 0 && !std::isinf(size)) {
            int exponent;
            std::frexp(size, &exponent);
            const double spacing = std::ldexp(1.0, std::max(exponent - 1, lowest) - mantissa);
            size = std::nearbyint(size / spacing) * spacing;
        }
        if (size > max) {
            if (!saturate && has_infinity) return int64_t(s | infinity);
            if (!saturate && has_nan) return int64_t(nan | (signed_nan ? s : 0));
            size = max;
        }
        if (size == 0) return int64_t(signed_zero ? s : 0);
        int exponent;
        std::frexp(size, &exponent);
        exponent = std::max(exponent - 1, lowest);
        const double steps = std::ldexp(size, mantissa - exponent);  // from 2^mantissa on in a normal binade
        const uint64_t code = (uint64_t(exponent - lowest) << mantissa) + uint64_t(steps);
        if (twos_complement) return int64_t(x < 0 ? (uint64_t(1) << bits) - code : code);
        return int64_t(s | code);
    }
};

// ---- the set ---------------------------------------------------------------------------------------------------------

struct Array {
    std::string format;
    std::vector<size_t> shape;
    std::vector<uint64_t> codes;
};

struct Set {
    std::string root;
    std::map<std::string, Format> formats;
    std::map<std::string, std::string> files;

    explicit Set(const std::string &directory) : root(directory) {
        const Json table = json(root + "/formats.json");
        for (const Json &f : table["formats"].items) formats.emplace(f["name"].string, Format(f));
    }

    // A .npy file of version 1.0; of its header only the length of an element matters here.
    Array array(const std::string &family, const Json &entry) {
        Array x{entry["format"].string, {}, {}};
        size_t size = 1;
        for (const Json &n : entry["shape"].items) x.shape.push_back(size_t(n.value)), size *= x.shape.back();
        const std::string path = root + "/" + family + "/" + entry["file"].string;
        std::string &data = files[path];
        if (data.empty()) data = contents(path);
        const size_t header = 10 + uint8_t(data[8]) + 256 * uint8_t(data[9]);
        const char kind = data[data.find("'descr': '") + 12];
        const size_t width = size_t(kind - '0');
        const size_t start = header + width * size_t(entry["offset"].value);
        if (start + width * size > data.size()) throw std::runtime_error(path + " is too short");
        x.codes.resize(size);
        for (size_t i = 0; i < size; i++)
            for (size_t b = 0; b < width; b++) x.codes[i] |= uint64_t(uint8_t(data[start + width * i + b])) << (8 * b);
        return x;
    }

    double value(const Array &x, size_t i) const {
        if (x.format != "float64") return formats.at(x.format).decode(x.codes[i]);
        double y;
        std::memcpy(&y, &x.codes[i], sizeof y);
        return y;
    }
};

// ---- tests -----------------------------------------------------------------------------------------------------------

struct Vector {
    const Json &entry;
    std::map<std::string, Array> inputs, outputs;
    const Json &attribute(const std::string &name) const { return entry["attributes"][name]; }
};

static bool same(const Format &f, uint64_t actual, uint64_t expected) {
    return actual == expected || (std::isnan(f.decode(actual)) && std::isnan(f.decode(expected)));
}

static int failures = 0;

static void check(bool right, const Vector &v, size_t i, double actual, double expected) {
    if (right) return;
    if (failures++ < 5) std::printf("FAIL %s: y[%zu] is %.9g, expected %.9g\n", v.entry["id"].string.c_str(), i, actual, expected);
}

static bool test_cast(Set &set, const Vector &v) {
    if (v.attribute("rounding").string != "nearest_even" || v.entry.has("conventions")) return false;
    const Array &x = v.inputs.at("x"), &y = v.outputs.at("y");
    const Format &f = set.formats.at(y.format);
    for (size_t i = 0; i < x.codes.size(); i++) {
        const int64_t code = f.encode(set.value(x, i), v.attribute("overflow").string == "saturate");
        check(code >= 0 && same(f, uint64_t(code), y.codes[i]), v, i, f.decode(uint64_t(code)), f.decode(y.codes[i]));
    }
    return true;
}

static bool test_decode(Set &set, const Vector &v) {
    const Array &x = v.inputs.at("codes"), &y = v.outputs.at("y");
    const Format &from = set.formats.at(v.attribute("format").string), &to = set.formats.at("float32");
    for (size_t i = 0; i < y.codes.size(); i++) {
        const double value = from.decode(x.codes[i]);
        check(same(to, uint64_t(to.encode(value, false)), y.codes[i]), v, i, value, to.decode(y.codes[i]));
    }
    return true;
}

static bool test_matmul(Set &set, const Vector &v) {
    const Array &a = v.inputs.at("a"), &b = v.inputs.at("b"), &y = v.outputs.at("y");
    if (a.shape.size() != 2 || b.shape.size() != 2 || v.attribute("rounding").string != "nearest_even") return false;
    const Format &to = set.formats.at(y.format);
    const bool saturate = v.attribute("overflow").string == "saturate";
    const double factor = v.attribute("factor").value, u = std::ldexp(1.0, -24);
    const auto start = v.inputs.find("c");
    const size_t rows = a.shape[0], inner = a.shape[1], columns = b.shape[1];
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j++) {
            const size_t at = i * columns + j;
            const double c = start == v.inputs.end() ? 0 : set.value(start->second, at);
            double exact = c, total = std::fabs(c);  // binary64, with an allowance for its own rounding
            float sum = float(c);
            for (size_t k = 0; k < inner; k++) {
                const double p = set.value(a, i * inner + k), q = set.value(b, k * columns + j);
                exact += p * q;
                total += std::fabs(p * q);
                sum += float(p) * float(q);
            }
            const double code = double(to.encode(double(sum * float(factor)), saturate)), n = double(inner + 2) * u;
            const double actual = to.decode(uint64_t(code)), expected = to.decode(y.codes[at]);
            if (!std::isfinite(exact) || !std::isfinite(sum)) continue;  // an inner overflow is outside the bound
            double error = (total * (n / (1 - n)) + total * double(inner + 9) * std::ldexp(1.0, -52)) * std::fabs(factor);
            error += (std::fabs(exact * factor) + error) * 4 * u + std::ldexp(1.0, -148);
            const double low = to.decode(uint64_t(to.encode(exact * factor - error, saturate)));
            const double high = to.decode(uint64_t(to.encode(exact * factor + error, saturate)));
            const bool open = std::isnan(low) || std::isnan(high);
            check(open || (low <= actual && actual <= high), v, at, actual, expected);
            check(open || (low <= expected && expected <= high), v, at, expected, expected);
        }
    return true;
}

int main(int count, char **arguments) {
    if (count != 2) return std::fprintf(stderr, "usage: %s DIR\n", arguments[0]), 2;
    const std::string root = arguments[1];
    const std::map<std::string, std::function<bool(Set &, const Vector &)>> tests = {
        {"cast", test_cast}, {"decode", test_decode}, {"matmul", test_matmul}};
    try {
        Set set(root);
        const Json top = json(root + "/manifest.json");
        std::map<std::string, int> done;
        int missing = 0;
        for (const auto &[family, about] : top["families"].members) {
            const Json manifest = json(root + "/" + family + "/manifest.json");
            for (const Json &entry : manifest["vectors"].items) {
                Vector v{entry, {}, {}};
                const auto test = tests.find(entry["op"].string);
                if (test == tests.end() || entry.has("bulk")) {
                    missing++;
                    continue;
                }
                for (const auto &[name, i] : entry["inputs"].members)
                    v.inputs[name] = set.array(family, manifest["arrays"][size_t(i.value)]);
                for (const auto &[name, i] : entry["outputs"].members)
                    v.outputs[name] = set.array(family, manifest["arrays"][size_t(i.value)]);
                if (test->second(set, v)) done[entry["op"].string]++;
                else missing++;
            }
        }
        for (const auto &[op, n] : done) std::printf("%s: %d vectors\n", op.c_str(), n);
        std::printf("%d not implemented, %d elements failed\n", missing, failures);
        return done.empty() || failures ? 1 : 0;
    } catch (const std::exception &error) {
        return std::fprintf(stderr, "%s\n", error.what()), 2;
    }
}
