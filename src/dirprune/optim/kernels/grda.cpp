// One step of GRDA over many tensors in one pass over the memory: what update.py says tensor by tensor, to the bit;
// where rows are rescaled, but for the rounding of their sums.
// Without headers of torch, so that it compiles in about a second: it sees addresses, sizes and numbers.

#if defined(__SSE2__)
#include <immintrin.h>
#endif

// Stores that go past the caches, as wide as the processor has them.
#if defined(__AVX512F__)
typedef __m512i Line;
static inline void stream_line(void *to, const void *from) {
    _mm512_stream_si512((Line *)to, _mm512_load_si512((const Line *)from));
}
#elif defined(__AVX2__)
typedef __m256i Line;
static inline void stream_line(void *to, const void *from) {
    _mm256_stream_si256((Line *)to, _mm256_load_si256((const Line *)from));
}
#elif defined(__SSE2__)
typedef __m128i Line;
static inline void stream_line(void *to, const void *from) {
    _mm_stream_si128((Line *)to, _mm_load_si128((const Line *)from));
}
#endif

typedef long long int64;
typedef unsigned int uint32;
typedef unsigned short uint16;

enum Type { FLOAT16, BFLOAT16, FLOAT32, FLOAT64 };
enum Rule { SOFT, HARD, RESCALED };

// The table that cpu.py packs: a column of `count` numbers of eight bytes for each of these.
struct Tensors {
    void *const *weight, *const *gradient, *const *accumulator, *const *momentum;
    double *const *step, *const *threshold;
    const int64 *size, *row, *weight_type, *accumulator_type;  // row: elements at one index of the first dimension
    int64 *end;  // of runs
    explicit Tensors(const int64 *table, int64 count)
        : weight((void *const *)table), gradient(weight + count), accumulator(gradient + count),
          momentum(accumulator + count), step((double *const *)(momentum + count)), threshold(step + count),
          size((const int64 *)(threshold + count)), row(size + count), weight_type(row + count),
          accumulator_type(weight_type + count), end((int64 *)(accumulator_type + count)) {}
};

struct Tensor {
    void *weight, *gradient, *accumulator, *momentum;
    double step, threshold;
    int64 size, row, weight_type, accumulator_type;
    Tensor(const Tensors &all, int64 i)
        : weight(all.weight[i]), gradient(all.gradient[i]), accumulator(all.accumulator[i]),
          momentum(all.momentum[i]), step(*all.step[i]), threshold(*all.threshold[i]), size(all.size[i]),
          row(all.row[i]), weight_type(all.weight_type[i]), accumulator_type(all.accumulator_type[i]) {}
};

struct Options {
    double rate, momentum, weight_decay, unscale;
    bool nesterov, maximize, stream;
    Rule rule;
};

static const int64 BLOCK = 512;    // elements; a block of every operand stays in the first-level cache
static const int64 CHUNK = 32768;  // elements that a thread takes at a time
static const int64 ALIGN = 64;     // elements; pieces of a tensor start at multiples of it
static const int64 LINE = 16;      // elements; float32 of the widest line
static const double DAMPING = 0.01;  // threshold.py has the same

// torch multiplies and adds with one rounding where the processor can; compiled.py asks it which.
#if FUSED_MULTIPLY_ADD
static inline float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline double multiply_add(double a, double b, double c) { return __builtin_fma(a, b, c); }
#else
template <class Real> static inline Real multiply_add(Real a, Real b, Real c) { return a * b + c; }
#endif

static inline uint32 bits_of(float x) {
    uint32 bits;
    __builtin_memcpy(&bits, &x, 4);
    return bits;
}

static inline float float_of(uint32 bits) {
    float x;
    __builtin_memcpy(&x, &bits, 4);
    return x;
}

static inline bool is_finite(uint32 bits) { return (bits & 0x7f800000u) != 0x7f800000u; }

static inline uint16 to_bfloat16(float x) {  // to nearest, ties to even
    uint32 bits = bits_of(x);
    uint32 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return (bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0 : (uint16)rounded;
}

static inline uint32 mix(uint32 x) {  // rounding.py has the same
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

static inline uint16 to_bfloat16_stochastic(float x, uint32 key) {
    uint32 bits = bits_of(x);
    uint32 rounded = (bits + (mix(bits ^ key) & 0xffffu)) >> 16;
    return is_finite(bits) ? (uint16)rounded : to_bfloat16(x);
}

// A block as numbers of the accumulator's width: in its place, or converted into scratch.
template <class Real> static Real *load(void *tensor, int64 type, int64 first, int64 n, Real *scratch);

template <> double *load(void *tensor, int64, int64 first, int64, double *) { return (double *)tensor + first; }

template <> float *load(void *tensor, int64 type, int64 first, int64 n, float *scratch) {
    if (type == FLOAT32) return (float *)tensor + first;
    if (type == BFLOAT16) {
        const uint16 *from = (const uint16 *)tensor + first;
        for (int64 i = 0; i < n; i++) scratch[i] = float_of((uint32)from[i] << 16);
    }
#if defined(__FLT16_MANT_DIG__)
    if (type == FLOAT16) {
        const _Float16 *from = (const _Float16 *)tensor + first;
        for (int64 i = 0; i < n; i++) scratch[i] = (float)from[i];
    }
#endif
    return scratch;
}

// Bytes to memory; past the caches where the whole does not fit into them, which spares reading what is overwritten.
static void put(char *to, const char *from, int64 bytes, bool stream) {
    int64 i = 0;
#if defined(__SSE2__)
    const int64 line = sizeof(Line);
    if (stream && (unsigned long long)to % line == 0)
        for (; i + line <= bytes; i += line) stream_line(to + i, from + i);
#endif
    __builtin_memcpy(to + i, from + i, bytes - i);
}

template <class Real> static void store(void *tensor, int64 type, int64 first, int64 n, const Real *values, bool stream);

template <> void store(void *tensor, int64, int64 first, int64 n, const double *values, bool stream) {
    put((char *)((double *)tensor + first), (const char *)values, 8 * n, stream);
}

template <> void store(void *tensor, int64 type, int64 first, int64 n, const float *values, bool stream) {
    if (type == FLOAT32) return put((char *)((float *)tensor + first), (const char *)values, 4 * n, stream);
    alignas(64) uint16 narrow[BLOCK];
    if (type == BFLOAT16)
        for (int64 i = 0; i < n; i++) narrow[i] = to_bfloat16(values[i]);
#if defined(__FLT16_MANT_DIG__)
    if (type == FLOAT16)
        for (int64 i = 0; i < n; i++) ((_Float16 *)narrow)[i] = (_Float16)values[i];
#endif
    put((char *)((uint16 *)tensor + first), (const char *)narrow, 2 * n, stream);
}

template <class Real> static void round_into(void *, int64, int64, const Real *, uint32) {}

template <> void round_into(void *tensor, int64 first, int64 n, const float *values, uint32 key) {
    uint16 *to = (uint16 *)tensor + first;
    for (int64 i = 0; i < n; i++) to[i] = to_bfloat16_stochastic(values[i], key);
}

// Whether a weight depends on its whole row.
static bool by_rows(const Tensor &t, const Options &o) { return o.rule == RESCALED && t.row > 0 && t.threshold != 0; }

// v - min(max(v, -tau), tau), so written that a NaN of either is handed on.
template <class Real> static inline Real soft(Real v, Real tau) {
    const Real raised = v >= -tau ? v : -tau;
    return v - (raised <= tau ? raised : tau);
}

// Whether weights of a type can be computed where they lie.
template <class Real> static bool in_place(int64 weight_type, bool stream) {
    return sizeof(Real) == (weight_type == FLOAT64 ? 8 : weight_type == FLOAT32 ? 4 : 2) && !stream;
}

template <class Real>
static void update(const Tensor &t, const Options &o, int64 first, int64 n, bool accumulator_is_narrow) {
    alignas(64) Real g_scratch[BLOCK], w_scratch[BLOCK], v_scratch[BLOCK], direction[BLOCK], w_new[BLOCK];
    const Real rate = (Real)-o.rate, beta = (Real)o.momentum, decay = (Real)o.weight_decay;
    Real *d = load(t.gradient, t.weight_type, first, n, g_scratch);
    if (o.unscale != 1.0) {  // as GradScaler.unscale_ leaves it: rounded to the gradient's type, in its place
        const Real unscale = (Real)o.unscale;
        for (int64 i = 0; i < n; i++) direction[i] = d[i] * unscale;
        store(t.gradient, t.weight_type, first, n, direction, false);
        d = load(t.gradient, t.weight_type, first, n, g_scratch);
    }
    if (o.maximize) {
        for (int64 i = 0; i < n; i++) direction[i] = -d[i];
        d = direction;
    }
    if (o.weight_decay != 0) {
        const Real *w = load(t.weight, t.weight_type, first, n, w_scratch);
        for (int64 i = 0; i < n; i++) direction[i] = multiply_add(w[i], decay, d[i]);
        d = direction;
    }
    if (o.momentum != 0) {
        Real *m = (Real *)t.momentum + first;
        if (o.nesterov) {
            for (int64 i = 0; i < n; i++) {
                m[i] = m[i] * beta + d[i];
                direction[i] = multiply_add(m[i], beta, d[i]);
            }
            d = direction;
        } else {
            for (int64 i = 0; i < n; i++) m[i] = m[i] * beta + d[i];
            d = m;
        }
    }
    Real *v = load(t.accumulator, t.accumulator_type, first, n, v_scratch);
    if (by_rows(t, o)) {  // the weights follow when all of their row is known
        for (int64 i = 0; i < n; i++) v[i] = multiply_add(d[i], rate, v[i]);
        return;
    }
    const bool direct = in_place<Real>(t.weight_type, o.stream);
    Real *weight = direct ? (Real *)t.weight + first : w_new;
    const Real tau = (Real)t.threshold;
    if (t.threshold == 0) {
        for (int64 i = 0; i < n; i++) weight[i] = v[i] = multiply_add(d[i], rate, v[i]);
    } else if (o.rule == HARD) {
        for (int64 i = 0; i < n; i++) {
            const Real x = multiply_add(d[i], rate, v[i]);
            v[i] = x;
            weight[i] = -tau <= x && x <= tau ? (Real)0 : x;
        }
    } else {
        for (int64 i = 0; i < n; i++) {
            const Real x = multiply_add(d[i], rate, v[i]);
            v[i] = x;
            weight[i] = soft(x, tau);
        }
    }
    if (accumulator_is_narrow) round_into<Real>(t.accumulator, first, n, v, mix((uint32)(int64)t.step));
    if (!direct) store(t.weight, t.weight_type, first, n, w_new, o.stream);
}

// Partial sums, as wide as a processor adds at once; a compiler may not split a sum by itself.
template <class Real> struct Lanes;
template <> struct Lanes<float> {
    typedef float Values __attribute__((vector_size(32)));
    typedef int Bits __attribute__((vector_size(32)));
};
template <> struct Lanes<double> {
    typedef double Values __attribute__((vector_size(32)));
    typedef int64 Bits __attribute__((vector_size(32)));
};

struct Norms {
    double whole, left;  // l1: of a row, and of what its zeros leave
};

template <class Real> static Norms norms(const Real *v, int64 size, Real tau) {
    typedef typename Lanes<Real>::Values Values;
    typedef typename Lanes<Real>::Bits Bits;
    const int64 lanes = sizeof(Values) / sizeof(Real), both = 2 * lanes;
    const Bits sign = (Bits)-Values{};
    Norms sum = {0, 0};
    for (int64 i = 0; i < size;) {
        const int64 end = size - i < BLOCK ? size : i + BLOCK;
        Values whole[2] = {}, left[2] = {};
        for (; i + both <= end; i += both)
            for (int64 half = 0; half < 2; half++) {
                Values x;
                __builtin_memcpy(&x, v + i + half * lanes, sizeof x);
                const Values magnitude = (Values)((Bits)x & ~sign);
                whole[half] += magnitude;
                left[half] += (Values)((Bits)magnitude & ~(Bits)(magnitude <= tau));  // a NaN stays
            }
        for (; i < end; i++) {
            const Real magnitude = v[i] < 0 ? -v[i] : v[i];
            sum.whole += magnitude;
            sum.left += magnitude <= tau ? (Real)0 : magnitude;
        }
        whole[0] += whole[1];
        left[0] += left[1];
        for (int64 lane = 0; lane < lanes; lane++) {
            sum.whole += whole[0][lane];
            sum.left += left[0][lane];
        }
    }
    return sum;
}

// The weights of one row, whose accumulators are wide.
template <class Real> static void rescale(const Tensor &t, const Options &o, int64 first) {
    const Real tau = (Real)t.threshold, *v = (const Real *)t.accumulator + first;
    const double least = sizeof(Real) == 8 ? 2.2250738585072014e-308 : 1.1754943508222875e-38;
    const Norms norm = norms(v, t.row, tau);
    const double share = norm.left / (norm.whole >= least ? norm.whole : least);
    const Real factor = (Real)((1 + DAMPING) / (share + DAMPING));
    const bool stream = o.stream && t.row % LINE == 0;  // pieces of lines are cheaper through the cache
    const bool direct = in_place<Real>(t.weight_type, stream);
    alignas(64) Real w_new[BLOCK];
    for (int64 start = 0; start < t.row; start += BLOCK) {
        const int64 n = t.row - start < BLOCK ? t.row - start : BLOCK;
        Real *weight = direct ? (Real *)t.weight + first + start : w_new;
        for (int64 i = 0; i < n; i++) weight[i] = soft(v[start + i], tau) * factor;
        if (!direct) store(t.weight, t.weight_type, first + start, n, w_new, stream);
    }
}

static void update_blocks(const Tensor &t, const Options &o, int64 first, int64 end) {
    for (; first < end; first += BLOCK) {
        const int64 n = end - first < BLOCK ? end - first : BLOCK;
        if (t.weight_type == FLOAT64)
            update<double>(t, o, first, n, false);
        else
            update<float>(t, o, first, n, t.accumulator_type == BFLOAT16);
    }
}

// As many rows at a time as a block holds, so that the second look at them finds them in the cache.
static void update_rows(const Tensor &t, const Options &o, int64 first, int64 end) {
    const int64 rows = t.row < BLOCK ? BLOCK / t.row * t.row : t.row;
    for (; first < end; first += rows) {
        const int64 after = end - first < rows ? end : first + rows;
        update_blocks(t, o, first, after);
        for (int64 row = first; row < after; row += t.row)
            if (t.weight_type == FLOAT64)
                rescale<double>(t, o, row);
            else
                rescale<float>(t, o, row);
    }
}

// Of a tensor's rows a piece has those that begin in it.
static int64 next_row(const Tensor &t, int64 at) { return (at + t.row - 1) / t.row * t.row; }

static void update_piece(const Tensor &t, const Options &o, int64 first, int64 end) {
    if (by_rows(t, o))
        update_rows(t, o, next_row(t, first), next_row(t, end));
    else
        update_blocks(t, o, first, end);
}

struct Work {
    Tensors tensors;
    int64 count, total, taken;
    Options options;
};

static int64 extent(int64 size) { return (size + ALIGN - 1) / ALIGN * ALIGN; }

// A thread takes chunks of all the tensors laid end to end, until there are no more.
static void work_on(void *shared) {
    Work *work = (Work *)shared;
    int64 index = 0, start = 0;  // of the tensor where the thread is
    for (;;) {
        const int64 from = __atomic_fetch_add(&work->taken, CHUNK, __ATOMIC_RELAXED);
        if (from >= work->total) break;
        const int64 to = from + CHUNK;
        while (index < work->count) {
            const int64 size = work->tensors.size[index];
            const int64 end = start + extent(size);
            const int64 low = from > start ? from - start : 0;
            const int64 high = (to < end ? to : end) - start;
            if (low < high) update_piece(Tensor(work->tensors, index), work->options, low, high < size ? high : size);
            if (end > to) break;
            start = end;
            index++;
        }
    }
#if defined(__SSE2__)
    if (work->options.stream) _mm_sfence();
#endif
}

extern "C" {

int has_float16(void) {
#if defined(__FLT16_MANT_DIG__)
    return 1;
#else
    return 0;
#endif
}

// Runs of tensors that have taken as many steps: how many runs; notes where each ends, and its number of steps.
int64 runs(int64 *table, int64 count, double *numbers) {
    const Tensors tensors(table, count);
    int64 runs = 0;
    for (int64 i = 0; i < count; i++) {
        const double step = *tensors.step[i];
        if (runs == 0 || step != numbers[runs - 1]) numbers[runs++] = step;
        tensors.end[runs - 1] = i + 1;
    }
    return runs;
}

typedef void (*Parallel)(void (*)(void *), void *, unsigned, unsigned);

// One step: the threshold of each run's tensors grows by its increment.
void grda(const int64 *table, int64 count, const double *increments, int64 runs, double rate, double momentum,
          double weight_decay, double unscale, int nesterov, int maximize, int rule, int64 stream_above,
          unsigned threads, Parallel parallel) {
    const Tensors tensors(table, count);
    for (int64 i = 0, run = 0; run < runs; run++)
        for (; i < tensors.end[run]; i++) {
            *tensors.threshold[i] += increments[run];
            *tensors.step[i] += 1;
        }
    int64 total = 0;
    for (int64 i = 0; i < count; i++) total += extent(tensors.size[i]);
    Work work = {tensors, count, total, 0,
                 {rate, momentum, weight_decay, unscale, nesterov != 0, maximize != 0, total > stream_above, (Rule)rule}};
    const int64 chunks = (total + CHUNK - 1) / CHUNK;
    if (chunks < threads) threads = (unsigned)chunks;
    if (parallel && threads > 1)
        parallel(work_on, &work, threads, 0);
    else
        work_on(&work);
}
}
