// A network with few non-zero weights, run layer by layer on zero-padded planes.
//
// Layout: a feature map has one plane per channel. In a plane all images of the batch follow one another, row
// after row; rows and images are separated by zeros, so that a convolution's tap is one fixed distance for
// every output position, and a whole plane is one long vector. A convolution is then, per output channel, a
// list of taps (distance in the input, weight), one for each non-zero weight, and nothing is read for a zero.
// Positions that separate rows are computed too and set to zero by a mask when they are stored.

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__AVX512F__)
#define LANES 16
#else
#if defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#endif

#if defined(__AVX512F__) || defined(__aarch64__)
#define WIDEST 16 // vectors of a tile: accumulators that fit the registers
#else
#define WIDEST 12
#endif

typedef float vec __attribute__((vector_size(LANES * 4)));
typedef int32_t bits __attribute__((vector_size(LANES * 4)));
typedef float loose __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef bits mask_of __attribute__((aligned(4), may_alias));

enum { CONV, MAP, POOL, COPY };

#define SMALLEST 2000 // vectors that a piece of work reads at least: about a microsecond

typedef struct {
    int32_t distance;
    float weight;
} tap;

// One layer. Distances are in floats. Pointers to maps point to row 0, column 0 of image 0 of channel 0.
typedef struct {
    int64_t kind;
    const float *in, *other; // other: added before clamping, or null
    float *out;
    int64_t in_channel, other_channel, out_channel; // from one channel to the next
    int64_t channels;                               // of the result
    int64_t vectors;                                // that cover the result's positions
    const int32_t *mask;                            // -1 where a position belongs to the result, else 0
    const int64_t *begin;                           // CONV: where each channel's taps begin, and the end
    const tap *taps;
    const float *scale, *shift; // per channel; CONV has no scale
    float low, high;
    int64_t images, rows, columns;                     // POOL, COPY: of the result
    int64_t in_image, in_row, in_column;               // POOL, COPY
    int64_t out_image, out_row, out_column;            // POOL, COPY
    int64_t in_rows, in_columns;                       // POOL
    int64_t kernel[2], stride[2], padding[2], maximum; // POOL
    int64_t count_padding;
} layer;

#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const float *from) { return *(const loose *)from; }
INLINE vec spread(float value) { return (vec){0} + value; }

// NaN stays NaN: it is not below low and not above high
INLINE vec clamp(vec x, float low, float high) {
    vec l = spread(low), h = spread(high);
    bits under = x < l;
    x = (vec)(((bits)l & under) | ((bits)x & ~under));
    bits over = x > h;
    return (vec)(((bits)h & over) | ((bits)x & ~over));
}

// Where the results of one channel go, from some position on
typedef struct {
    float *out;
    const float *other;
    const int32_t *mask;
    float low, high;
} place;

INLINE place place_of(const layer *o, int64_t channel, int64_t position) {
    const float *other = o->other ? o->other + channel * o->other_channel + position : 0;
    return (place){o->out + channel * o->out_channel + position, other, o->mask + position, o->low, o->high};
}

INLINE void store(place p, int64_t at, vec x) {
    if (p.other) x += load(p.other + at);
    *(loose *)(p.out + at) = (vec)((bits)clamp(x, p.low, p.high) & *(const mask_of *)(p.mask + at));
}

// WIDTH vectors of one output channel; WAYS lists of taps in turn, so that short tiles do not wait for sums
INLINE void convolve(const layer *o, int64_t channel, int64_t position, const int WIDTH, const int WAYS) {
    vec sum[WIDEST];
    const tap *t = o->taps + o->begin[channel], *end = o->taps + o->begin[channel + 1];
    const float *in = o->in + position;
#pragma GCC unroll 16
    for (int i = 0; i < WIDTH * WAYS; i++) sum[i] = spread(i < WIDTH ? o->shift[channel] : 0.0f);
    for (; end - t >= WAYS; t += WAYS) {
#pragma GCC unroll 16
        for (int way = 0; way < WAYS; way++) {
            vec w = spread(t[way].weight);
            const float *from = in + t[way].distance;
#pragma GCC unroll 16
            for (int i = 0; i < WIDTH; i++) sum[way * WIDTH + i] += w * load(from + i * LANES);
        }
    }
    for (; t < end; t++) {
        vec w = spread(t->weight);
        const float *from = in + t->distance;
#pragma GCC unroll 16
        for (int i = 0; i < WIDTH; i++) sum[i] += w * load(from + i * LANES);
    }
    place p = place_of(o, channel, position);
#pragma GCC unroll 16
    for (int i = 0; i < WIDTH; i++) {
#pragma GCC unroll 16
        for (int way = 1; way < WAYS; way++) sum[i] += sum[way * WIDTH + i];
        store(p, i * LANES, sum[i]);
    }
}

#define TILE(width, ways)                                                                            \
    static void tile##width(const layer *o, int64_t from, int64_t to, int64_t position) {            \
        for (int64_t c = from; c < to; c++) convolve(o, c, position, width, ways);                   \
    }
// clang-format off
TILE(1, 8) TILE(2, 4) TILE(3, 4) TILE(4, 2) TILE(5, 2) TILE(6, 2) TILE(7, 1) TILE(8, 1)
TILE(9, 1) TILE(10, 1) TILE(11, 1) TILE(12, 1)
#if WIDEST > 12
TILE(13, 1) TILE(14, 1) TILE(15, 1) TILE(16, 1)
#endif
typedef void tile_function(const layer *, int64_t, int64_t, int64_t);
static tile_function *const TILES[] = {
    0, tile1, tile2, tile3, tile4, tile5, tile6, tile7, tile8, tile9, tile10, tile11, tile12,
#if WIDEST > 12
    tile13, tile14, tile15, tile16,
#endif
};
// clang-format on

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// The first channel of a part, where parts have the same number of taps (a channel counts as four more)
static int64_t first_of(const layer *o, int64_t part, int64_t parts) {
    int64_t total = o->begin[o->channels] - o->begin[0] + 4 * o->channels, low = 0, high = o->channels;
    int64_t wanted = total * part / parts;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (o->begin[middle] - o->begin[0] + 4 * middle < wanted) low = middle + 1;
        else high = middle;
    }
    return low;
}

static int64_t tiles_of(const layer *o) { return (o->vectors + WIDEST - 1) / WIDEST; }

// Into how many pieces of work a layer is cut: few, so that taking one costs little, more than there are
// threads, so that none waits long for the last, and one where starting costs more than it saves
static int64_t parts_of(const layer *o, int64_t threads) {
    int64_t work, wanted = 8 * threads; // work: about the vectors that are read
    if (threads == 1) return 1;
    if (o->kind == CONV) {
        work = (o->begin[o->channels] - o->begin[0]) * o->vectors;
        wanted = (wanted + tiles_of(o) - 1) / tiles_of(o);
    } else if (o->kind == MAP) work = o->channels * o->vectors;
    else work = o->channels * o->images * o->rows * (1 + o->columns / LANES) * (o->kind == POOL ? 4 : 1);
    return least(o->channels, least(wanted, 1 + work / SMALLEST));
}

static void conv(const layer *o, int64_t tile, int64_t part, int64_t parts) {
    int64_t tiles = tiles_of(o), from = o->vectors * tile / tiles, to = o->vectors * (tile + 1) / tiles;
    TILES[to - from](o, first_of(o, part, parts), first_of(o, part + 1, parts), from * LANES);
}

static void map(const layer *o, int64_t channel) {
    const float *in = o->in + channel * o->in_channel;
    vec scale = spread(o->scale[channel]), shift = spread(o->shift[channel]);
    place p = place_of(o, channel, 0);
    for (int64_t i = 0; i < o->vectors * LANES; i += LANES) store(p, i, load(in + i) * scale + shift);
}

// NaN stays NaN
INLINE float greater(float a, float b) { return (b > a) | (b != b) ? b : a; }

// Along a row: the windows' results from sums or maxima down the columns, `stride` known to the compiler
INLINE void along(float *out, const float *line, int64_t count, int64_t kernel, int64_t stride, int maximum) {
    for (int64_t x = 0; x < count; x++) out[x] = line[x * stride];
    for (int64_t k = 1; k < kernel; k++)
        if (maximum)
            for (int64_t x = 0; x < count; x++) out[x] = greater(out[x], line[x * stride + k]);
        else
            for (int64_t x = 0; x < count; x++) out[x] += line[x * stride + k];
}

// `line` has room for a padded row
static void pool(const layer *o, int64_t channel, float *restrict line) {
    const int64_t width = o->in_columns, kernel = o->kernel[1], stride = o->stride[1], left = o->padding[1];
    const int64_t right = (o->columns - 1) * stride + kernel - left - width; // outside, may be negative
    const float outside = o->maximum ? -__builtin_inff() : 0.0f;
    for (int64_t x = 0; x < left; x++) line[x] = outside;
    for (int64_t x = 0; x < right; x++) line[left + width + x] = outside;
    float *middle = line + left;
    for (int64_t image = 0; image < o->images; image++)
        for (int64_t y = 0; y < o->rows; y++) {
            const float *in = o->in + channel * o->in_channel + image * o->in_image;
            float *restrict out = o->out + channel * o->out_channel + image * o->out_image + y * o->out_row;
            int64_t top = y * o->stride[0] - o->padding[0], bottom = least(top + o->kernel[0], o->in_rows);
            if (top < 0) top = 0;
            memcpy(middle, in + top * o->in_row, width * sizeof(float));
            for (int64_t row = top + 1; row < bottom; row++) {
                const float *from = in + row * o->in_row;
                if (o->maximum)
                    for (int64_t x = 0; x < width; x++) middle[x] = greater(middle[x], from[x]);
                else
                    for (int64_t x = 0; x < width; x++) middle[x] += from[x];
            }
            if (stride == 2) along(out, line, o->columns, kernel, 2, o->maximum);
            else along(out, line, o->columns, kernel, stride, o->maximum);
            if (!o->maximum)
                for (int64_t x = 0; x < o->columns; x++) {
                    int64_t from = x * stride - left, wide = least(from + kernel, width) - (from < 0 ? 0 : from);
                    out[x] /= (float)(o->count_padding ? o->kernel[0] * kernel : (bottom - top) * wide);
                }
        }
}

static void copy(const layer *o, int64_t channel) {
    for (int64_t image = 0; image < o->images; image++)
        for (int64_t y = 0; y < o->rows; y++) {
            const float *in = o->in + channel * o->in_channel + image * o->in_image + y * o->in_row;
            float *out = o->out + channel * o->out_channel + image * o->out_image + y * o->out_row;
            if (o->in_column == 1 && o->out_column == 1) memcpy(out, in, o->columns * sizeof(float));
            else if (o->in_column == 2 && o->out_column == 1)
                for (int64_t x = 0; x < o->columns; x++) out[x] = in[2 * x];
            else
                for (int64_t x = 0; x < o->columns; x++) out[x * o->out_column] = in[x * o->in_column];
        }
}

// ---- threads ----
//
// The caller's thread and workers that stay, asleep between runs, take pieces of a layer in turn. A layer is
// complete when its pieces are: nobody waits for a thread that has not come yet or that has lost its core
// between pieces.

#define SPINS 4000 // pauses before a core is given up, some ten microseconds

typedef struct {
    _Alignas(64) atomic_long next; // the first piece that nobody has taken
    atomic_long done;              // pieces that are complete
} progress;

typedef struct {
    const layer *layers;
    int64_t count, threads, widest;
    progress *progress; // per layer
    double *seconds;    // per layer, of the caller's thread; or null
} run;

static double clock_now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void pause_a_moment(int *turns) {
    if (++*turns > SPINS) sched_yield(); // another program may need this core
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void do_piece(const layer *o, int64_t piece, int64_t parts, float *line) {
    if (o->kind == CONV) {
        conv(o, piece / parts, piece % parts, parts);
        return;
    }
    for (int64_t c = o->channels * piece / parts, end = o->channels * (piece + 1) / parts; c < end; c++)
        if (o->kind == MAP) map(o, c);
        else if (o->kind == POOL) pool(o, c, line);
        else copy(o, c);
}

static void run_layers(run *r, int is_caller) {
    float line[r->widest];
    double before = r->seconds && is_caller ? clock_now() : 0;
    for (int64_t i = 0; i < r->count; i++) {
        const layer *o = &r->layers[i];
        progress *p = &r->progress[i];
        int64_t parts = parts_of(o, r->threads), mine = 0;
        int64_t pieces = parts * (o->kind == CONV ? tiles_of(o) : 1);
        for (long piece; (piece = atomic_fetch_add(&p->next, 1)) < pieces; mine++) do_piece(o, piece, parts, line);
        if (mine) atomic_fetch_add(&p->done, mine);
        if (i + 1 == r->count && !is_caller) return; // only the caller needs to know
        for (int turns = 0; atomic_load(&p->done) < pieces;) pause_a_moment(&turns);
        if (r->seconds && is_caller) {
            double now = clock_now();
            r->seconds[i] = now - before;
            before = now;
        }
    }
}

static struct {
    pthread_mutex_t one; // run at a time
    int64_t workers;
    run *current;
    atomic_long turn, inside; // turn is odd while a run is open; inside: workers that may be looking at it
    pthread_mutex_t asleep;
    pthread_cond_t opened;
} team = {.one = PTHREAD_MUTEX_INITIALIZER, .asleep = PTHREAD_MUTEX_INITIALIZER, .opened = PTHREAD_COND_INITIALIZER};

static int is_open(long seen) {
    long turn = atomic_load(&team.turn);
    return turn != seen && turn % 2;
}

static void *work(void *argument) {
    int64_t number = (int64_t)argument;
    for (long seen = 0;;) {
        for (int spins = 0; !is_open(seen) && spins < SPINS;) pause_a_moment(&spins);
        if (!is_open(seen)) {
            pthread_mutex_lock(&team.asleep);
            while (!is_open(seen)) pthread_cond_wait(&team.opened, &team.asleep);
            pthread_mutex_unlock(&team.asleep);
        }
        seen = atomic_load(&team.turn);
        atomic_fetch_add(&team.inside, 1);
        if (atomic_load(&team.turn) == seen && seen % 2 && number < team.current->threads) run_layers(team.current, 0);
        atomic_fetch_sub(&team.inside, 1);
    }
    return 0;
}

static void after_fork(void) { // the child has no workers, and locks that nobody will open
    team.workers = 0;
    atomic_store(&team.turn, 0);
    atomic_store(&team.inside, 0);
    pthread_mutex_init(&team.one, 0);
    pthread_mutex_init(&team.asleep, 0);
    pthread_cond_init(&team.opened, 0);
}

static void remember_forks(void) { pthread_atfork(0, 0, after_fork); }

// Have as many workers as a run wants, or as the system gives
static void hire(int64_t wanted) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    sigset_t all, before;
    pthread_t thread;
    pthread_once(&once, remember_forks);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); // signals are the program's own threads' affair
    while (team.workers < wanted && !pthread_create(&thread, 0, work, (void *)(team.workers + 1))) {
        pthread_detach(thread);
        team.workers++;
    }
    pthread_sigmask(SIG_SETMASK, &before, 0);
}

static void run_together(run *r) {
    pthread_mutex_lock(&team.one);
    hire(r->threads - 1);
    team.current = r;
    pthread_mutex_lock(&team.asleep);
    atomic_fetch_add(&team.turn, 1);
    pthread_cond_broadcast(&team.opened);
    pthread_mutex_unlock(&team.asleep);
    run_layers(r, 1);
    atomic_fetch_add(&team.turn, 1);
    for (int turns = 0; atomic_load(&team.inside);) pause_a_moment(&turns);
    pthread_mutex_unlock(&team.one);
}

// ---- what is called from outside ----

int64_t sparse_network_lanes(void) { return LANES; }

int64_t sparse_network_layer_bytes(void) { return sizeof(layer); }

// 0 where memory is short; `seconds`: where to leave the time of each layer, or null
int64_t sparse_network_run(const layer *layers, int64_t count, int64_t threads, double *seconds) {
    run r = {.layers = layers, .count = count, .threads = threads, .widest = 1, .seconds = seconds};
    for (int64_t i = 0; i < count; i++)
        if (layers[i].kind == POOL) {
            int64_t padded = layers[i].in_columns + 2 * (layers[i].padding[1] + layers[i].kernel[1] + layers[i].stride[1]);
            if (padded > r.widest) r.widest = padded;
        }
    r.progress = aligned_alloc(_Alignof(progress), (size_t)count * sizeof *r.progress);
    if (!r.progress) return 0;
    memset(r.progress, 0, (size_t)count * sizeof *r.progress);
    if (threads > 1) run_together(&r);
    else run_layers(&r, 1);
    free(r.progress);
    return 1;
}
