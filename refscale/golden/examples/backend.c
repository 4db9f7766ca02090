/* A backend in C for refscale conform --pipe: casts of float32 to four formats, and products in float32.
 *
 *     cc -O2 -ffp-contract=off -o backend backend.c -lm && refscale conform --pipe ./backend
 *
 * It reads one request per line and answers each with one line; refscale/golden/kit/pipe.py defines both. It answers
 * other requests with "unsupported".
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct format {
    const char *name;
    int bits, mantissa, bias;
    double max;
    uint32_t infinity, nan; /* codes without sign; 0: the format has no infinity */
};

static const struct format FORMATS[] = {
    {"float8_e4m3fn", 8, 3, 7, 448.0, 0, 0x7f},
    {"float8_e5m2", 8, 2, 15, 57344.0, 0x7c, 0x7e},
    {"float16", 16, 10, 15, 65504.0, 0x7c00, 0x7e00},
    {"float32", 32, 23, 127, 3.4028234663852886e38, 0x7f800000u, 0x7fc00000u},
};

static const struct format *find_format(const char *name) {
    for (size_t i = 0; name && i < sizeof FORMATS / sizeof *FORMATS; i++)
        if (!strcmp(FORMATS[i].name, name)) return &FORMATS[i];
    return NULL;
}

static double decode(const struct format *f, uint32_t code) {
    uint32_t sign = code >> (f->bits - 1), rest = code & ((1u << (f->bits - 1)) - 1);
    uint32_t fraction = rest & ((1u << f->mantissa) - 1);
    int exponent = (int)(rest >> f->mantissa);
    double value;
    if (f->infinity && rest == f->infinity) value = INFINITY;
    else if (f->infinity ? rest > f->infinity : rest == f->nan) value = NAN;
    else if (exponent == 0) value = ldexp(fraction, 1 - f->bias - f->mantissa);
    else value = ldexp(fraction + (1u << f->mantissa), exponent - f->bias - f->mantissa);
    return sign ? -value : value;
}

/* To nearest, ties to even. A double represents every product and sum here exactly, so there is one rounding. */
static uint32_t encode(const struct format *f, double x, int saturate) {
    uint32_t sign = signbit(x) ? 1u << (f->bits - 1) : 0, top, code;
    double size = fabs(x), grain;
    int exponent;
    if (isnan(x)) return sign | f->nan;
    frexp(f->max, &exponent);
    top = (uint32_t)(exponent - 1 + f->bias) << f->mantissa;
    top |= (uint32_t)(ldexp(f->max, f->mantissa - exponent + 1)) & ((1u << f->mantissa) - 1);
    if (size > 0 && !isinf(size)) {
        frexp(size, &exponent);
        if (exponent < 2 - f->bias) exponent = 2 - f->bias; /* subnormals share the grain of the smallest binade */
        grain = ldexp(1.0, exponent - 1 - f->mantissa);
        size = nearbyint(size / grain) * grain;             /* the default mode of nearbyint is ties to even */
    }
    if (size > f->max) return sign | (saturate ? top : f->infinity ? f->infinity : f->nan);
    if (size < ldexp(1.0, 1 - f->bias)) return sign | (uint32_t)ldexp(size, f->bias + f->mantissa - 1);
    frexp(size, &exponent);
    code = (uint32_t)(exponent - 1 + f->bias) << f->mantissa;
    return sign | code | ((uint32_t)ldexp(size, f->mantissa - exponent + 1) & ((1u << f->mantissa) - 1));
}

/* ---- requests ---------------------------------------------------------------------------------------------------- */

struct array {
    const struct format *format;
    long shape[8], size;
    int dimensions;
    uint32_t *codes;
};

static const char *attribute(char *head, const char *key) {
    static char value[256];
    size_t n = strlen(key);
    for (char *p = head; (p = strstr(p, key)); p += n)
        if (p > head && p[-1] == ' ' && p[n] == '=') {
            sscanf(p + n + 1, "%255s", value);
            return value;
        }
    return NULL;
}

/* "name format 2,3 code code ..."; 0 for an unsupported format. */
static int read_array(char *text, struct array *x) {
    char *word = strtok(text, " ");
    word = word ? strtok(NULL, " ") : NULL;
    if (!(x->format = find_format(word)) || !(word = strtok(NULL, " "))) return 0;
    x->size = 1;
    x->dimensions = 0;
    for (char *p = word; *p && *p != '-' && *p != '\n' && x->dimensions < 8; p += *p == ',') {
        x->shape[x->dimensions] = strtol(p, &p, 10);
        x->size *= x->shape[x->dimensions++];
    }
    x->codes = malloc((size_t)(x->size + 1) * sizeof *x->codes);
    for (long i = 0; i < x->size; i++) {
        word = strtok(NULL, " \n");
        x->codes[i] = word ? (uint32_t)strtoul(word, NULL, 16) : 0;
    }
    return 1;
}

static void write_codes(const uint32_t *codes, long size, const struct format *f) {
    printf("ok | y");
    for (long i = 0; i < size; i++) printf(" %0*x", f->bits / 4, codes[i]);
    putchar('\n');
}

static void unsupported(void) { puts("unsupported"); }

static void answer_cast(char *head, char *arrays[], const struct format *to) {
    int saturate = !strcmp(attribute(head, "overflow"), "saturate");
    struct array x;
    if (strcmp(attribute(head, "rounding"), "nearest_even") || !read_array(arrays[0], &x)) {
        unsupported();
        return;
    }
    for (long i = 0; i < x.size; i++) x.codes[i] = encode(to, decode(x.format, x.codes[i]), saturate);
    write_codes(x.codes, x.size, to);
    free(x.codes);
}

static void answer_decode(const struct format *from, char *arrays[]) {
    struct array x;
    const struct format *to = find_format("float32");
    if (!read_array(arrays[0], &x)) {
        unsupported();
        return;
    }
    for (long i = 0; i < x.size; i++) x.codes[i] = encode(to, decode(from, x.codes[i]), 0);
    write_codes(x.codes, x.size, to);
    free(x.codes);
}

/* In float32, k = 0, 1, …, from c or 0, as claimed by accumulate=float32 start=1: the bits of that sum are required. */
static void answer_matmul(char *head, char *arrays[], const struct format *to) {
    int saturate = !strcmp(attribute(head, "overflow"), "saturate");
    float factor = strtof(attribute(head, "factor"), NULL);
    struct array a, b, c = {NULL, {0}, 0, 0, NULL};
    if (!read_array(arrays[0], &a) || !read_array(arrays[1], &b) || (arrays[2] && !read_array(arrays[2], &c))) {
        unsupported();
        return;
    }
    long rows = a.shape[a.dimensions - 2], inner = a.shape[a.dimensions - 1], columns = b.shape[b.dimensions - 1];
    long batches = 1;
    for (int i = 0; i < a.dimensions - 2; i++) batches *= a.shape[i];
    uint32_t *y = malloc((size_t)(batches * rows * columns + 1) * sizeof *y);
    for (long n = 0; n < batches; n++)
        for (long i = 0; i < rows; i++)
            for (long j = 0; j < columns; j++) {
                float sum = c.codes ? (float)decode(c.format, c.codes[(n * rows + i) * columns + j]) : 0;
                for (long k = 0; k < inner; k++) {
                    float product = (float)decode(a.format, a.codes[(n * rows + i) * inner + k]) *
                                    (float)decode(b.format, b.codes[(b.dimensions > 2 ? n * inner + k : k) * columns + j]);
                    sum += product;
                }
                y[(n * rows + i) * columns + j] = encode(to, sum * factor, saturate);
            }
    write_codes(y, batches * rows * columns, to);
    free(y);
    free(a.codes);
    free(b.codes);
    free(c.codes);
}

int main(void) {
    char *line = NULL;
    size_t room = 0;
    while (getline(&line, &room, stdin) > 0) {
        char *arrays[3] = {NULL, NULL, NULL}, *rest = strstr(line, " | ");
        for (int i = 0; rest && i < 3; i++) {
            *rest = 0;
            arrays[i] = rest + 3;
            rest = strstr(arrays[i], " | ");
        }
        if (rest) *rest = 0;
        const struct format *format = find_format(attribute(line, "format"));
        if (!strncmp(line, "hello", 5))
            puts("refscale-pipe 3 name=example-c version=2 ops=cast,decode,matmul"
                 " formats=float8_e4m3fn,float8_e5m2,float16,float32 sources=float8_e4m3fn,float8_e5m2,float16,float32"
                 " roundings=nearest_even accumulate=float32 start=1");
        else if (!strncmp(line, "cast ", 5) && format && arrays[0]) answer_cast(line, arrays, format);
        else if (!strncmp(line, "decode ", 7) && format && arrays[0]) answer_decode(format, arrays);
        else if (!strncmp(line, "matmul ", 7) && format && arrays[1]) answer_matmul(line, arrays, format);
        else unsupported();
        fflush(stdout);
    }
    free(line);
    return 0;
}
