/* What a decoder of Llama's shape does on a processor, in float32: products, norms, rotation, attention, and gradients.
 *
 * Plain C with the vector extensions of GCC and Clang; `astarpo.native` compiles it for the machine it runs on. Nothing
 * that a conversation is told depends on which others are beside it or on the number of threads: every number is one
 * chain of operations whose order follows from its own conversation, and from how many tokens of it come at once.
 *
 * Matrices are row by row. A product's second factor is packed: panels of NR columns, each [K][NR] end to end, the last
 * one filled up with zeros to whole vectors.
 */

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define W 16
#define MR 8
#elif defined(__AVX__)
#define W 8
#define MR 4
#elif defined(__aarch64__)
#define W 4
#define MR 8
#else
#define W 4
#define MR 4
#endif
#define NV 3
#define NR (NV * W)
/* Columns of the first factor that are multiplied before the next come: a panel of them stays in the nearest cache. */
#define KB 512
/* Rows that one thread takes at a time. */
#define ROWS 64

typedef float vec __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef int64_t i64;

#ifdef _OPENMP
#include <omp.h>
#define THREAD omp_get_thread_num()
#else
#define THREAD 0
#endif

#define INLINE static inline __attribute__((always_inline))

INLINE vec splat(float a) { return (vec){0} + a; }
INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec a) { *(vec *)p = a; }
INLINE vec choose(ivec mask, vec a, vec b) { return (vec)((mask & (ivec)a) | (~mask & (ivec)b)); }
INLINE i64 whole(i64 n) { return (n + W - 1) / W * W; }
INLINE i64 least(i64 a, i64 b) { return a < b ? a : b; }

INLINE float total(vec a) {
    float s = 0;
    for (int i = 0; i < W; i++) s += a[i];
    return s;
}

/* e^x to about one part in 10^7, 0 below e^-87 and infinite above e^88; what is no number stays none. */
INLINE vec exponential(vec x) {
    const float magic = 12582912.f; /* 1.5 * 2^23: adding it leaves the nearest integer in the low bits */
    ivec none = x < splat(-87.3f);
    x = choose(none, splat(-87.3f), x);
    ivec much = x > splat(88.3f);
    x = choose(much, splat(88.3f), x);
    vec t = x * 1.44269504f + magic;
    vec n = t - magic;
    vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vec p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.f;
    ivec scale = ((ivec)t - (ivec)splat(magic) + 127) << 23;
    return choose(none, splat(0), choose(much, splat(INFINITY), p * (vec)scale));
}

/* ------------------------------------------------------------------------------------------------ products */

/* C [mr, nv vectors] (+)= A B: A by strides, B rows of `ldb`. Each number is one chain over k. */
INLINE void tile(const int mr, const int nv, i64 K, const float *A, i64 ra, i64 ca, const float *B, i64 ldb, float *C,
                 i64 ldc, int add) {
    vec acc[MR][NV];
#pragma GCC unroll 8
    for (int i = 0; i < mr; i++)
#pragma GCC unroll 3
        for (int j = 0; j < nv; j++) acc[i][j] = add ? load(C + i * ldc + j * W) : splat(0);
    for (i64 k = 0; k < K; k++) {
        vec b[NV];
#pragma GCC unroll 3
        for (int j = 0; j < nv; j++) b[j] = load(B + k * ldb + j * W);
#pragma GCC unroll 8
        for (int i = 0; i < mr; i++) {
            vec a = splat(A[i * ra + k * ca]);
#pragma GCC unroll 3
            for (int j = 0; j < nv; j++) acc[i][j] += a * b[j];
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < mr; i++)
#pragma GCC unroll 3
        for (int j = 0; j < nv; j++) store(C + i * ldc + j * W, acc[i][j]);
}

#define TILE(m, n)                                                  \
    case (m) * 4 + (n):                                             \
        if (ca == 1)                                                \
            tile(m, n, K, A, ra, 1, B, ldb, C, ldc, add);           \
        else                                                        \
            tile(m, n, K, A, ra, ca, B, ldb, C, ldc, add);          \
        break;
#define TILES(m) TILE(m, 1) TILE(m, 2) TILE(m, 3)

static void any_tile(int mr, int nv, i64 K, const float *A, i64 ra, i64 ca, const float *B, i64 ldb, float *C, i64 ldc,
                     int add) {
    switch (mr * 4 + nv) {
        TILES(1)
        TILES(2)
        TILES(3)
        TILES(4)
#if MR == 8
        TILES(5)
        TILES(6)
        TILES(7)
        TILES(8)
#endif
    }
}

/* C [M, N] (+)= A B with B of `ldb`, whose rows and those of C may be read and written up to whole vectors. */
static void product(i64 M, i64 N, i64 K, const float *A, i64 ra, i64 ca, const float *B, i64 ldb, float *C, i64 ldc,
                    int add) {
    for (i64 n = 0; n < N; n += NR) {
        int nv = (int)(whole(least(NR, N - n)) / W);
        for (i64 m = 0; m < M; m += MR)
            any_tile((int)least(MR, M - m), nv, K, A + m * ra, ra, ca, B + n, ldb, C + m * ldc + n, ldc, add);
    }
}

i64 packed_size(i64 N, i64 K) { return whole(N) * K; }

/* B [K, N] by strides, in panels. */
void pack(i64 N, i64 K, const float *B, i64 rk, i64 rn, float *to) {
    for (i64 n = 0; n < N; n += NR) {
        i64 wide = least(NR, N - n), all = whole(wide);
        for (i64 k = 0; k < K; k++, to += all) {
            const float *from = B + k * rk + n * rn;
            if (rn == 1)
                memcpy(to, from, 4 * wide);
            else
                for (i64 j = 0; j < wide; j++) to[j] = from[j * rn];
            for (i64 j = wide; j < all; j++) to[j] = 0;
        }
    }
}

/* C [M, N] (+)= A B, B packed. */
static void multiply(i64 M, i64 N, i64 K, const float *A, i64 ra, i64 ca, const float *packed, float *C, i64 ldc,
                     int add) {
    float room[MR * NR];
    for (i64 n = 0; n < N; n += NR) {
        i64 wide = least(NR, N - n), all = whole(wide);
        const float *B = packed + n * K;
        for (i64 k = 0; k < K; k += KB) {
            i64 deep = least(KB, K - k);
            int more = add || k;
            for (i64 m = 0; m < M; m += MR) {
                int high = (int)least(MR, M - m);
                const float *a = A + m * ra + k * ca;
                float *c = C + m * ldc + n;
                if (wide == all) {
                    any_tile(high, (int)(all / W), deep, a, ra, ca, B + k * all, all, c, ldc, more);
                    continue;
                }
                for (int i = 0; more && i < high; i++) memcpy(room + i * NR, c + i * ldc, 4 * wide);
                any_tile(high, (int)(all / W), deep, a, ra, ca, B + k * all, all, room, NR, more);
                for (int i = 0; i < high; i++) memcpy(c + i * ldc, room + i * NR, 4 * wide);
            }
        }
    }
}

void gemm(i64 M, i64 N, i64 K, const float *A, i64 ra, i64 ca, const float *packed, float *C, i64 ldc, int add,
          int threads) {
    i64 step = least(ROWS, (M + threads - 1) / threads);
    step = (step + MR - 1) / MR * MR;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (i64 m = 0; m < M; m += step)
        multiply(least(step, M - m), N, K, A + m * ra, ra, ca, packed, C + m * ldc, ldc, add);
}

/* -------------------------------------------------------------------------------------- single operations */

/* Sum over a row of float32, vectors first. */
INLINE float dot(const float *a, const float *b, i64 n) {
    vec s = splat(0), t = splat(0);
    i64 k = 0;
    for (; k + 2 * W <= n; k += 2 * W) {
        s += load(a + k) * load(b + k);
        t += load(a + k + W) * load(b + k + W);
    }
    for (; k + W <= n; k += W) s += load(a + k) * load(b + k);
    float found = total(s + t);
    for (; k < n; k++) found += a[k] * b[k];
    return found;
}

/* y = x / sqrt(mean x^2 + eps) * gain */
INLINE void norm(const float *x, const float *gain, float *y, i64 n, float eps) {
    float inverse = 1.f / sqrtf(dot(x, x, n) / (float)n + eps);
    for (i64 k = 0; k < n; k++) y[k] = x[k] * inverse * gain[k];
}

/* silu(g) u */
INLINE void gate(const float *g, const float *u, float *y, i64 n) {
    i64 k = 0;
    for (; k + W <= n; k += W) store(y + k, load(g + k) / (1.f + exponential(-load(g + k))) * load(u + k));
    for (; k < n; k++) y[k] = g[k] / (1.f + expf(-g[k])) * u[k];
}

/* A head's two halves turned by its position's angles, in place. */
INLINE void turn(float *x, const float *cosine, const float *sine, i64 half) {
    for (i64 k = 0; k < half; k++) {
        float one = x[k], two = x[half + k];
        x[k] = one * cosine[k] - two * sine[k];
        x[half + k] = two * cosine[k] + one * sine[k];
    }
}

/* The first `seen` scores of a row become weights that add up to 1, those after them up to a whole vector 0. */
INLINE void soften(float *s, i64 seen) {
    i64 all = whole(seen), k;
    for (k = seen; k < all; k++) s[k] = -INFINITY;
    vec most = load(s);
    for (k = W; k < all; k += W) most = choose(load(s + k) > most, load(s + k), most);
    float largest = most[0];
    for (int i = 1; i < W; i++) largest = most[i] > largest ? most[i] : largest;
    vec added = splat(0);
    for (k = 0; k < all; k += W) {
        vec e = exponential(load(s + k) - largest);
        store(s + k, e);
        added += e;
    }
    float sum = total(added);
    vec share = splat(1.f / sum);
    for (k = 0; k < all; k += W) store(s + k, load(s + k) * share);
}

/* -------------------------------------------------------------------------------------------- attention */

#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (ivec){__VA_ARGS__})
#endif

/* Pairs of a, then of b, added up. */
INLINE vec pairs(vec a, vec b) {
#if W == 16
    return SHUFFLE(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
           SHUFFLE(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
#elif W == 8
    return SHUFFLE(a, b, 0, 2, 4, 6, 8, 10, 12, 14) + SHUFFLE(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
#else
    return SHUFFLE(a, b, 0, 2, 4, 6) + SHUFFLE(a, b, 1, 3, 5, 7);
#endif
}

/* The sums of W vectors, as one vector. */
INLINE vec totals(vec *a) {
#pragma GCC unroll 4
    for (int n = W; n > 1; n /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < n / 2; i++) a[i] = pairs(a[2 * i], a[2 * i + 1]);
    return a[0];
}

/* Where the vectors of D numbers begin: the last one overlaps the one before where D is no multiple of W. */
INLINE i64 begins(i64 i, i64 D) { return least(i * W, D - W); }

/* One token's attention: q [heads, D], keys and values [seen, D] of one group; y [heads, D]. `room` takes a row of
   scores. D is W at least and takes `nd` vectors. */
INLINE void attend_one_of(const int nd, const float *q, const float *keys, const float *values, float *y, i64 heads,
                          i64 D, i64 seen, float scale, float *room) {
    for (i64 h = 0; h < heads; h++, q += D, y += D) {
        vec asked[nd];
        for (int i = 0; i < nd; i++) asked[i] = load(q + begins(i, D)) * scale;
        /* What two vectors hold is counted once. */
        for (i64 d = D - W; d < (nd - 1) * W; d++) asked[nd - 1][d - (D - W)] = 0;
        for (i64 p = 0; p < seen; p += W) {
            vec a[W];
#pragma GCC unroll 16
            for (int i = 0; i < W; i++) {
                const float *key = keys + least(p + i, seen - 1) * D;
                a[i] = asked[0] * load(key);
                for (int j = 1; j < nd; j++) a[i] += asked[j] * load(key + begins(j, D));
            }
            store(room + p, totals(a));
        }
        soften(room, seen);
        for (int i = 0; i < nd; i++) {
            vec s[4] = {splat(0), splat(0), splat(0), splat(0)};
            const float *v = values + begins(i, D);
            i64 p = 0;
            for (; p + 4 <= seen; p += 4)
                for (int j = 0; j < 4; j++) s[j] += room[p + j] * load(v + (p + j) * D);
            for (; p < seen; p++) s[0] += room[p] * load(v + p * D);
            store(y + begins(i, D), (s[0] + s[1]) + (s[2] + s[3]));
        }
    }
}

static void attend_one(const float *q, const float *keys, const float *values, float *y, i64 heads, i64 D, i64 seen,
                       float scale, float *room) {
    switch ((D + W - 1) / W) {
#define ONE(n)                                                                  \
    case n:                                                                     \
        attend_one_of(n, q, keys, values, y, heads, D, seen, scale, room);      \
        break;
        ONE(1)
        ONE(2)
        ONE(3)
        ONE(4)
        default:
            attend_one_of((int)((D + W - 1) / W), q, keys, values, y, heads, D, seen, scale, room);
    }
}

/* Queries that are attended to at a time: one to a lane of two vectors. */
#define ASKED (2 * W)

/* Floats that `attend_many` wants for `seen` positions. */
INLINE i64 attend_room(i64 D, i64 seen) { return ASKED * (seen + D) + whole(D) * (seen + ASKED); }

/* Rows [n, D] turned to [D, ASKED], times `scale`; the lanes beyond n hold zeros. */
INLINE void across(const float *rows, i64 ld, i64 n, i64 D, float scale, float *to) {
    for (i64 d = 0; d < D; d++) {
        float *lanes = to + d * ASKED;
        for (i64 i = 0; i < n; i++) lanes[i] = rows[i * ld + d] * scale;
        for (i64 i = n; i < ASKED; i++) lanes[i] = 0;
    }
}

/* Scores [reach, ASKED], one query to a lane, become weights e^(score - most). Query i sees the first `first` + i + 1
   positions. `most_of` [ASKED] takes the largest scores, `sum_of` [ASKED] what the weights add up to. */
INLINE void soften_across(float *s, i64 first, i64 reach, int vectors, float *most_of, float *sum_of) {
    for (i64 p = first + 1; p < reach; p++)
        for (i64 i = 0; i < least(p - first, ASKED); i++) s[p * ASKED + i] = -INFINITY;
    for (int v = 0; v < vectors; v++) {
        float *at = s + v * W;
        vec most = load(at), sum = splat(0);
        for (i64 p = 1; p < reach; p++) {
            vec now = load(at + p * ASKED);
            most = choose(now > most, now, most);
        }
        for (i64 p = 0; p < reach; p++) {
            vec e = exponential(load(at + p * ASKED) - most);
            store(at + p * ASKED, e);
            sum += e;
        }
        store(most_of + v * W, most);
        store(sum_of + v * W, sum);
    }
}

/* Sums over weighted values [m, whole(D)], divided by what the weights add up to. */
INLINE void shared_out(i64 m, i64 D, const float *from, const float *sum, float *to, i64 ld) {
    for (i64 i = 0; i < m; i++) {
        float share = 1.f / sum[i];
        for (i64 d = 0; d < D; d++) to[i * ld + d] = from[i * whole(D) + d] * share;
    }
}

/* Attention of `count` tokens that come after `past` others: q and y [count, heads, D] in rows of `ldq` and `ldy`, keys
   and values [past + count, D] in rows of `ldk`, of one group. */
static void attend_many(const float *q, i64 ldq, const float *keys, const float *values, i64 ldk, float *y, i64 ldy,
                        i64 heads, i64 D, i64 past, i64 count, float scale, float *room) {
    i64 seen = past + count, Dw = whole(D), ldv = ldk;
    float *scores = room, *asked = scores + ASKED * seen, *mine = asked + ASKED * D, *out = mine + seen * Dw;
    float most[ASKED], sum[ASKED];
    const float *V = values;
    if (D % W) {
        for (i64 p = 0; p < seen; p++) {
            memcpy(mine + p * Dw, values + p * ldk, 4 * D);
            memset(mine + p * Dw + D, 0, 4 * (Dw - D));
        }
        V = mine;
        ldv = Dw;
    }
    for (i64 h = 0; h < heads; h++)
        for (i64 first = 0; first < count; first += ASKED) {
            i64 m = least(ASKED, count - first), reach = past + first + m;
            int vectors = (int)(whole(m) / W);
            across(q + first * ldq + h * D, ldq, m, D, scale, asked);
            product(reach, vectors * W, D, keys, ldk, 1, asked, ASKED, scores, ASKED, 0);
            soften_across(scores, past + first, reach, vectors, most, sum);
            product(m, D, reach, scores, 1, ASKED, V, ldv, out, Dw, 0);
            shared_out(m, D, out, sum, y + first * ldy + h * D, ldy);
        }
}

/* ------------------------------------------------------------------------------------------------- playing */

/* Packed products' weights, [out, in] before; biases and norms of heads may be NULL. */
typedef struct {
    const float *first_norm, *second_norm, *qkv, *qkv_bias, *out, *out_bias, *gate_up, *gate_up_bias, *down, *down_bias,
        *q_norm, *k_norm;
} Layer;

typedef struct {
    i64 layers, hidden, heads, groups, width, inner, words;
    i64 padding; /* the word that learns nothing from being read, or -1 */
    const float *embed, *norm, *head, *head_bias;
    const Layer *layer;
    float eps, scale;
} Model;

/* Tokens of one pass: n of them, of `sequences` rows of the cache, those of one row after each other from `start` on. */
typedef struct {
    i64 n, sequences, asked, capacity;
    const i64 *ids, *position; /* [n] */
    const i64 *start, *row;    /* [sequences + 1], [sequences] */
    const i64 *last;           /* [asked] tokens whose logits are wanted */
    float *const *keys, *const *values; /* [layers] of [rows, groups, capacity, width] */
    const float *cosine, *sine;         /* [capacity, width / 2] */
    float *x, *qkv, *said;              /* [n, hidden], [n, (heads + 2 groups) width], [n, heads width] */
    float *room;                        /* [threads, room_size] */
    i64 room_size;
    float *logits;                      /* [asked, words] */
} Pass;

INLINE void biased(float *y, i64 n, i64 wide, i64 ld, const float *bias) {
    for (i64 i = 0; bias && i < n; i++)
        for (i64 k = 0; k < wide; k++) y[i * ld + k] += bias[k];
}

/* Norm, projections, rotation and writing into the cache of tokens [from, to). */
static void ask(const Model *m, const Layer *l, const Pass *p, i64 number, i64 from, i64 to, const i64 *row_of,
                float *normed) {
    i64 h = m->hidden, D = m->width, wide = (m->heads + 2 * m->groups) * D, n = to - from;
    for (i64 i = 0; i < n; i++) norm(p->x + (from + i) * h, l->first_norm, normed + i * h, h, m->eps);
    float *qkv = p->qkv + from * wide;
    multiply(n, wide, h, normed, h, 1, l->qkv, qkv, wide, 0);
    biased(qkv, n, wide, wide, l->qkv_bias);
    for (i64 i = 0; i < n; i++, qkv += wide) {
        i64 at = p->position[from + i];
        const float *cosine = p->cosine + at * (D / 2), *sine = p->sine + at * (D / 2);
        for (i64 k = 0; k < m->heads + m->groups; k++) {
            const float *gain = k < m->heads ? l->q_norm : l->k_norm;
            if (gain) norm(qkv + k * D, gain, qkv + k * D, D, m->eps);
            turn(qkv + k * D, cosine, sine, D / 2);
        }
        for (i64 g = 0; g < m->groups; g++) {
            i64 there = ((row_of[from + i] * m->groups + g) * p->capacity + at) * D;
            memcpy(p->keys[number] + there, qkv + (m->heads + g) * D, 4 * D);
            memcpy(p->values[number] + there, qkv + (m->heads + m->groups + g) * D, 4 * D);
        }
    }
}

/* What attention found is added to tokens [from, to), then the gated product. */
static void answer(const Model *m, const Layer *l, const Pass *p, i64 from, i64 to, float *normed) {
    i64 h = m->hidden, F = m->inner, said = m->heads * m->width, n = to - from;
    float *x = p->x + from * h, *both = normed + ROWS * h;
    multiply(n, h, said, p->said + from * said, said, 1, l->out, x, h, 1);
    biased(x, n, h, h, l->out_bias);
    for (i64 i = 0; i < n; i++) norm(x + i * h, l->second_norm, normed + i * h, h, m->eps);
    multiply(n, 2 * F, h, normed, h, 1, l->gate_up, both, 2 * F, 0);
    biased(both, n, 2 * F, 2 * F, l->gate_up_bias);
    for (i64 i = 0; i < n; i++) gate(both + i * 2 * F, both + i * 2 * F + F, both + i * 2 * F, F);
    multiply(n, h, F, both, 2 * F, 1, l->down, x, h, 1);
    biased(x, n, h, h, l->down_bias);
}

/* Floats that a thread wants for passes that see up to `seen` positions. */
i64 room_size(const Model *m, i64 seen) {
    i64 attention = attend_room(m->width, seen), rows = ROWS * (m->hidden + 2 * m->inner);
    return attention > rows ? attention : rows;
}

/* A pass through all layers; logits of the tokens asked for. `row_of` [n] is the cache row of each token. */
void play(const Model *m, const Pass *p, const i64 *row_of, int threads) {
    i64 h = m->hidden, D = m->width, n = p->n, shared = m->heads / m->groups;
    i64 wide = (m->heads + 2 * m->groups) * D, said = m->heads * D;
    i64 step = least(ROWS, ((n + threads - 1) / threads + MR - 1) / MR * MR);
    for (i64 i = 0; i < n; i++) memcpy(p->x + i * h, m->embed + p->ids[i] * h, 4 * h);
    for (i64 number = 0; number < m->layers; number++) {
        const Layer *l = m->layer + number;
#pragma omp parallel for num_threads(threads) if (threads > 1)
        for (i64 from = 0; from < n; from += step)
            ask(m, l, p, number, from, least(from + step, n), row_of, p->room + THREAD * p->room_size);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(dynamic)
        for (i64 each = 0; each < p->sequences * m->groups; each++) {
            i64 s = each / m->groups, g = each % m->groups;
            i64 begin = p->start[s], count = p->start[s + 1] - begin, past = p->position[begin];
            i64 there = (p->row[s] * m->groups + g) * p->capacity * D;
            const float *keys = p->keys[number] + there, *values = p->values[number] + there;
            const float *q = p->qkv + begin * wide + g * shared * D;
            float *y = p->said + begin * said + g * shared * D, *room = p->room + THREAD * p->room_size;
            if (count * shared < 4 && D >= W)
                for (i64 i = 0; i < count; i++)
                    attend_one(q + i * wide, keys, values, y + i * said, shared, D, past + i + 1, m->scale, room);
            else
                attend_many(q, wide, keys, values, D, y, said, shared, D, past, count, m->scale, room);
        }
#pragma omp parallel for num_threads(threads) if (threads > 1)
        for (i64 from = 0; from < n; from += step)
            answer(m, l, p, from, least(from + step, n), p->room + THREAD * p->room_size);
    }
    step = least(ROWS, ((p->asked + threads - 1) / threads + MR - 1) / MR * MR);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (i64 from = 0; from < p->asked; from += step) {
        i64 some = least(step, p->asked - from);
        float *normed = p->room + THREAD * p->room_size;
        for (i64 i = 0; i < some; i++) norm(p->x + p->last[from + i] * h, m->norm, normed + i * h, h, m->eps);
        multiply(some, m->words, h, normed, h, 1, m->head, p->logits + from * m->words, m->words, 0);
        biased(p->logits + from * m->words, some, m->words, m->words, m->head_bias);
    }
}

/* One word a row of logits [n, words]: the likeliest at temperature 0, else that in whose share of the sum of
   e^((z - largest) / temperature) draw [n], in [0, 1), falls; its log-prob, at temperature 1 where that is 0. `room` takes
   n rows of whole vectors. No word of weight 0 is chosen, but where nothing is a number. */
void choose_words(i64 n, i64 words, const float *logits, double temperature, const double *draw, i64 *chosen,
                  float *nats, float *room, int threads) {
    float slope = temperature > 0 ? (float)(1 / temperature) : 1.f;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (i64 row = 0; row < n; row++) {
        const float *z = logits + row * words;
        i64 all = whole(words), best = 0, parts = all / W;
        float *e = room + row * (all + parts), *sums = e + all;
        for (i64 k = 1; k < words; k++) best = z[k] > z[best] ? k : best;
        double sum = 0;
        for (i64 k = 0; k < words; k++) e[k] = z[k];
        for (i64 k = words; k < all; k++) e[k] = -INFINITY;
        for (i64 part = 0; part < parts; part++) {
            vec v = exponential((load(e + part * W) - z[best]) * slope);
            if ((part + 1) * W > words)
                for (i64 k = words - part * W; k < W; k++) v[k] = 0;
            store(e + part * W, v);
            sums[part] = total(v);
            sum += sums[part];
        }
        i64 found = best;
        if (temperature > 0) {
            double target = draw[row] * sum, reach = 0;
            i64 part = 0;
            /* Beyond the last part of weight lies nothing, however the sum was rounded. */
            while (part < parts - 1 && reach + sums[part] <= target) reach += sums[part++];
            while (part > 0 && sums[part] == 0) part--;
            for (i64 k = part * W; k < (part + 1) * W; k++) {
                if (e[k] <= 0) continue;
                found = k;
                reach += e[k];
                if (reach > target) break;
            }
        }
        chosen[row] = found;
        nats[row] = (z[found] - z[best]) * slope - (float)log(sum);
    }
}

/* In each of `tensors` [rows, groups, capacity, width] row target[i] takes the first length[i] positions of source[i]. */
void copy_rows(i64 pairs, const i64 *source, const i64 *target, const i64 *length, i64 tensors, float *const *data,
               i64 groups, i64 capacity, i64 width) {
    for (i64 t = 0; t < tensors; t++)
        for (i64 i = 0; i < pairs; i++)
            for (i64 g = 0; g < groups; g++)
                memcpy(data[t] + (target[i] * groups + g) * capacity * width,
                       data[t] + (source[i] * groups + g) * capacity * width, 4 * length[i] * width);
}

/* ------------------------------------------------------------------------------------------------ learning */

/* Episodes as ways through a tree of n tokens: an episode's tokens are node[start[w]] to node[start[w + 1]], of which
   the first past[w] are also an earlier way's and are asked about there. Without shared beginnings each token is its
   own node. */
typedef struct {
    i64 n, ways;
    const i64 *ids, *position;      /* [n] */
    const i64 *start, *node, *past; /* [ways + 1], [start[ways]], [ways] */
    const float *cosine, *sine;     /* [positions, width / 2] */
} Tree;

/* What one layer keeps of a pass for the way back. */
typedef struct {
    float *x, *raw, *qkv, *said, *lse, *middle, *both;
} Kept;

/* Floats that a layer keeps. */
i64 kept_size(const Model *m, i64 n) {
    i64 wide = (m->heads + 2 * m->groups) * m->width, raw = m->layer->q_norm ? wide : 0;
    return n * (2 * m->hidden + wide + raw + m->heads * m->width + m->heads + 2 * m->inner);
}

INLINE Kept kept_at(const Model *m, i64 n, float *at) {
    i64 wide = (m->heads + 2 * m->groups) * m->width;
    Kept k;
    k.x = at;
    k.middle = k.x + n * m->hidden;
    k.qkv = k.middle + n * m->hidden;
    k.raw = k.qkv + n * wide;
    /* Before norms of heads; without those nobody asks for it. */
    k.said = k.raw + (m->layer->q_norm ? n * wide : 0);
    k.lse = k.said + n * m->heads * m->width;
    k.both = k.lse + n * m->heads;
    return k;
}

/* Rows [seen, D] of a way, in rows of whole vectors. */
INLINE void gather(const float *from, i64 ld, const i64 *node, i64 seen, i64 D, float *to) {
    i64 Dw = whole(D);
    for (i64 p = 0; p < seen; p++) {
        memcpy(to + p * Dw, from + node[p] * ld, 4 * D);
        for (i64 d = D; d < Dw; d++) to[p * Dw + d] = 0;
    }
}

/* Floats that a thread wants for ways of up to `seen` tokens, forward or back. */
i64 learn_room(const Model *m, i64 seen) {
    i64 D = m->width, Dw = whole(D), rows = ROWS * (m->hidden + m->inner);
    i64 attention = 4 * seen * Dw + 2 * ASKED * seen + 2 * ASKED * D + 4 * ASKED * Dw;
    return attention > rows ? attention : rows;
}

/* Attention of one way and group. */
static void attend_way(const Model *m, const Tree *t, const Kept *k, i64 way, i64 g, float *room) {
    i64 D = m->width, Dw = whole(D), H = m->heads, shared = H / m->groups, wide = (H + 2 * m->groups) * D;
    const i64 *node = t->node + t->start[way];
    i64 seen = t->start[way + 1] - t->start[way], past = t->past[way];
    float *K = room, *V = K + seen * Dw, *S = V + seen * Dw, *q = S + ASKED * seen, *lanes = q + ASKED * Dw,
          *y = lanes + ASKED * D;
    float most[ASKED], sum[ASKED];
    gather(k->qkv + (H + g) * D, wide, node, seen, D, K);
    gather(k->qkv + (H + m->groups + g) * D, wide, node, seen, D, V);
    for (i64 h = g * shared; h < (g + 1) * shared; h++)
        for (i64 first = past; first < seen; first += ASKED) {
            i64 some = least(ASKED, seen - first), reach = first + some;
            int vectors = (int)(whole(some) / W);
            gather(k->qkv + h * D, wide, node + first, some, D, q);
            across(q, Dw, some, D, m->scale, lanes);
            product(reach, vectors * W, D, K, Dw, 1, lanes, ASKED, S, ASKED, 0);
            soften_across(S, first, reach, vectors, most, sum);
            product(some, D, reach, S, 1, ASKED, V, Dw, y, Dw, 0);
            for (i64 i = 0; i < some; i++) {
                k->lse[node[first + i] * H + h] = most[i] + logf(sum[i]);
                shared_out(1, D, y + i * Dw, sum + i, k->said + node[first + i] * H * D + h * D, 0);
            }
        }
}

/* Its gradient: d_said [n, heads D] is given, d_qkv [n, (heads + 2 groups) D] is added to where keys and values stand
   and written where queries do. */
static void attend_way_back(const Model *m, const Tree *t, const Kept *k, i64 way, i64 g, const float *d_said,
                            float *d_qkv, float *room) {
    i64 D = m->width, Dw = whole(D), H = m->heads, shared = H / m->groups, wide = (H + 2 * m->groups) * D;
    const i64 *node = t->node + t->start[way];
    i64 seen = t->start[way + 1] - t->start[way], past = t->past[way];
    float *K = room, *V = K + seen * Dw, *dK = V + seen * Dw, *dV = dK + seen * Dw, *P = dV + seen * Dw,
          *dP = P + ASKED * seen, *q = dP + ASKED * seen, *o = q + ASKED * Dw, *dO = o + ASKED * Dw,
          *dq = dO + ASKED * Dw, *lanes = dq + ASKED * Dw, *d_lanes = lanes + ASKED * D;
    float lse[ASKED], even[ASKED];
    gather(k->qkv + (H + g) * D, wide, node, seen, D, K);
    gather(k->qkv + (H + m->groups + g) * D, wide, node, seen, D, V);
    memset(dK, 0, 8 * seen * Dw);
    for (i64 h = g * shared; h < (g + 1) * shared; h++)
        for (i64 first = past; first < seen; first += ASKED) {
            i64 some = least(ASKED, seen - first), reach = first + some;
            int vectors = (int)(whole(some) / W);
            gather(k->qkv + h * D, wide, node + first, some, D, q);
            gather(k->said + h * D, H * D, node + first, some, D, o);
            gather(d_said + h * D, H * D, node + first, some, D, dO);
            for (i64 i = 0; i < ASKED; i++) {
                lse[i] = i < some ? k->lse[node[first + i] * H + h] : 0;
                even[i] = i < some ? dot(dO + i * Dw, o + i * Dw, Dw) : 0;
            }
            across(q, Dw, some, D, m->scale, lanes);
            across(dO, Dw, some, D, 1.f, d_lanes);
            product(reach, vectors * W, D, K, Dw, 1, lanes, ASKED, P, ASKED, 0);
            product(reach, vectors * W, D, V, Dw, 1, d_lanes, ASKED, dP, ASKED, 0);
            for (int v = 0; v < vectors; v++) {
                vec minus = load(lse + v * W), less = load(even + v * W);
                for (float *p = P + v * W, *d = dP + v * W; p < P + reach * ASKED; p += ASKED, d += ASKED) {
                    vec weight = exponential(load(p) - minus);
                    store(p, weight);
                    store(d, weight * (load(d) - less));
                }
            }
            for (i64 p = first + 1; p < reach; p++)
                for (i64 i = 0; i < least(p - first, ASKED); i++) P[p * ASKED + i] = dP[p * ASKED + i] = 0;
            product(some, D, reach, dP, 1, ASKED, K, Dw, dq, Dw, 0);
            for (i64 i = 0; i < some; i++)
                for (i64 d = 0; d < D; d++) d_qkv[node[first + i] * wide + h * D + d] = dq[i * Dw + d] * m->scale;
            for (i64 i = 0; i < some * Dw; i++) q[i] *= m->scale;
            product(reach, D, some, P, ASKED, 1, dO, Dw, dV, Dw, 1);
            product(reach, D, some, dP, ASKED, 1, q, Dw, dK, Dw, 1);
        }
    for (i64 p = 0; p < seen; p++) {
        float *k_at = d_qkv + node[p] * wide + (H + g) * D, *v_at = k_at + m->groups * D;
        for (i64 d = 0; d < D; d++) k_at[d] += dK[p * Dw + d], v_at[d] += dV[p * Dw + d];
    }
}

/* Queries, keys and values of tokens [from, to), before and after rotation. */
static void ask_kept(const Model *m, const Layer *l, const Tree *t, const Kept *k, i64 from, i64 to, float *normed) {
    i64 h = m->hidden, D = m->width, both = m->heads + m->groups, wide = (both + m->groups) * D, n = to - from;
    for (i64 i = 0; i < n; i++) norm(k->x + (from + i) * h, l->first_norm, normed + i * h, h, m->eps);
    float *raw = k->raw + from * wide, *qkv = k->qkv + from * wide;
    multiply(n, wide, h, normed, h, 1, l->qkv, qkv, wide, 0);
    biased(qkv, n, wide, wide, l->qkv_bias);
    if (l->q_norm) memcpy(raw, qkv, 4 * n * wide);
    for (i64 i = 0; i < n; i++, qkv += wide) {
        i64 at = t->position[from + i];
        for (i64 j = 0; j < both; j++) {
            const float *gain = j < m->heads ? l->q_norm : l->k_norm;
            if (gain) norm(qkv + j * D, gain, qkv + j * D, D, m->eps);
            turn(qkv + j * D, t->cosine + at * (D / 2), t->sine + at * (D / 2), D / 2);
        }
    }
}

/* From what attention found to the layer's end, of tokens [from, to). */
static void answer_kept(const Model *m, const Layer *l, const Kept *k, float *x, i64 from, i64 to, float *normed) {
    i64 h = m->hidden, F = m->inner, said = m->heads * m->width, n = to - from;
    float *middle = k->middle + from * h, *both = k->both + from * 2 * F, *inner = normed + ROWS * h;
    memcpy(middle, k->x + from * h, 4 * n * h);
    multiply(n, h, said, k->said + from * said, said, 1, l->out, middle, h, 1);
    biased(middle, n, h, h, l->out_bias);
    for (i64 i = 0; i < n; i++) norm(middle + i * h, l->second_norm, normed + i * h, h, m->eps);
    multiply(n, 2 * F, h, normed, h, 1, l->gate_up, both, 2 * F, 0);
    biased(both, n, 2 * F, 2 * F, l->gate_up_bias);
    for (i64 i = 0; i < n; i++) gate(both + i * 2 * F, both + i * 2 * F + F, inner + i * F, F);
    x += from * h;
    memmove(x, middle, 4 * n * h);
    multiply(n, h, F, inner, F, 1, l->down, x, h, 1);
    biased(x, n, h, h, l->down_bias);
}

INLINE i64 step_of(i64 n, int threads) { return least(ROWS, ((n + threads - 1) / threads + MR - 1) / MR * MR); }

/* Hidden states [n, hidden] after the last norm. `kept` has room for `layers` layers, or for one where `stride` is 0,
   and then for the last layer's output, [n, hidden]. */
void learn(const Model *m, const Tree *t, float *kept, i64 stride, float *last, float *hidden, float *room,
           i64 room_size, int threads) {
    i64 n = t->n, h = m->hidden, step = step_of(n, threads);
    Kept first = kept_at(m, n, kept);
    for (i64 i = 0; i < n; i++) memcpy(first.x + i * h, m->embed + t->ids[i] * h, 4 * h);
    for (i64 number = 0; number < m->layers; number++) {
        const Layer *l = m->layer + number;
        Kept k = kept_at(m, n, kept + number * stride);
        float *next = number + 1 == m->layers ? last : kept + (number + 1) * stride;
#pragma omp parallel for num_threads(threads) if (threads > 1)
        for (i64 from = 0; from < n; from += step)
            ask_kept(m, l, t, &k, from, least(from + step, n), room + THREAD * room_size);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(dynamic)
        for (i64 each = 0; each < t->ways * m->groups; each++)
            attend_way(m, t, &k, each / m->groups, each % m->groups, room + THREAD * room_size);
#pragma omp parallel for num_threads(threads) if (threads > 1)
        for (i64 from = 0; from < n; from += step)
            answer_kept(m, l, &k, next, from, least(from + step, n), room + THREAD * room_size);
    }
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (i64 i = 0; i < n; i++) norm(last + i * h, m->norm, hidden + i * h, h, m->eps);
}

/* dx (+)= the gradient of y = norm(x) gain, given dy; see `norm`. */
INLINE void norm_back(const float *x, const float *gain, const float *dy, float *dx, i64 n, float eps, int add) {
    float inverse = 1.f / sqrtf(dot(x, x, n) / (float)n + eps), along = 0;
    vec s = splat(0);
    i64 k = 0;
    for (; k + W <= n; k += W) s += load(dy + k) * load(gain + k) * load(x + k);
    along = total(s);
    for (; k < n; k++) along += dy[k] * gain[k] * x[k];
    along *= inverse * inverse / (float)n;
    for (k = 0; k < n; k++) {
        float d = inverse * (dy[k] * gain[k] - x[k] * along);
        dx[k] = add ? dx[k] + d : d;
    }
}

/* Weights' gradients of one layer; [out, in] end to end, biases and norms of heads may be NULL. */
typedef struct {
    float *first_norm, *second_norm, *qkv, *qkv_bias, *out, *out_bias, *gate_up, *gate_up_bias, *down, *down_bias,
        *q_norm, *k_norm;
} LayerGradient;

/* Gradient of a gain by column: sum over rows of dy x / rms(x). */
static void gain_back(const float *x, i64 ldx, const float *dy, i64 ldy, i64 rows, i64 n, float eps, float *to) {
    for (i64 i = 0; i < rows; i++) {
        const float *a = x + i * ldx, *d = dy + i * ldy;
        float inverse = 1.f / sqrtf(dot(a, a, n) / (float)n + eps);
        for (i64 k = 0; k < n; k++) to[k] += d[k] * a[k] * inverse;
    }
}

static void bias_back(const float *dy, i64 rows, i64 n, float *to) {
    for (i64 i = 0; to && i < rows; i++)
        for (i64 k = 0; k < n; k++) to[k] += dy[i * n + k];
}

/* dW [out, in] += dy^T x over n tokens; `room` takes x packed. */
static void weight_back(i64 n, i64 out, i64 in, const float *dy, i64 ldy, const float *x, float *to, float *room,
                        int threads) {
    pack(in, n, x, in, 1, room);
    gemm(out, in, n, dy, 1, ldy, room, to, in, 1, threads);
}

/* The gradient of `learn`: d [n, hidden] comes in as that of its hidden states. `back` are the layers' products packed
   the other way, [out] as the depth. `work` takes n (2 hidden + 3 inner + heads width + wide) and the widest input of a
   product packed. */
void learn_back(const Model *m, const Layer *back, const Tree *t, float *kept, i64 stride, const float *last, float *d,
                const LayerGradient *gradient, float *d_norm, float *d_embed, float *work, float *room, i64 room_size,
                int threads) {
    i64 n = t->n, h = m->hidden, F = m->inner, D = m->width, H = m->heads, G = m->groups, said = H * D;
    i64 wide = (H + 2 * G) * D, step = step_of(n, threads);
    float *dx = work, *normed = dx + n * h, *d_both = normed + n * h, *inner = d_both + 2 * n * F,
          *d_said = inner + n * F, *d_qkv = d_said + n * said, *packed = d_qkv + n * wide;
    gain_back(last, h, d, h, n, h, m->eps, d_norm);
    for (i64 i = 0; i < n; i++) norm_back(last + i * h, m->norm, d + i * h, dx + i * h, h, m->eps, 0);
    for (i64 number = m->layers - 1; number >= 0; number--) {
        const Layer *l = m->layer + number, *b = back + number;
        const LayerGradient *w = gradient + number;
        Kept k = kept_at(m, n, kept + number * stride);
#pragma omp parallel for num_threads(threads) if (threads > 1)
        for (i64 from = 0; from < n; from += step) {
            i64 some = least(step, n - from);
            float *di = d_both + from * 2 * F, *a = inner + from * F, *d_inner = room + THREAD * room_size;
            multiply(some, F, h, dx + from * h, h, 1, b->down, d_inner, F, 0);
            for (i64 i = 0; i < some; i++) {
                const float *g = k.both + (from + i) * 2 * F, *u = g + F, *dy = d_inner + i * F;
                float *dg = di + i * 2 * F, *du = dg + F;
                i64 j = 0;
                for (; j + W <= F; j += W) {
                    vec v = load(g + j), s = 1.f / (1.f + exponential(-v)), y = v * s, e = load(dy + j);
                    store(a + i * F + j, y * load(u + j));
                    store(du + j, e * y);
                    store(dg + j, e * load(u + j) * (s + y * (1.f - s)));
                }
                for (; j < F; j++) {
                    float s = 1.f / (1.f + expf(-g[j])), y = g[j] * s;
                    a[i * F + j] = y * u[j];
                    du[j] = dy[j] * y;
                    dg[j] = dy[j] * u[j] * (s + y * (1.f - s));
                }
            }
            for (i64 i = 0; i < some; i++)
                norm(k.middle + (from + i) * h, l->second_norm, normed + (from + i) * h, h, m->eps);
        }
        weight_back(n, h, F, dx, h, inner, w->down, packed, threads);
        bias_back(dx, n, h, w->down_bias);
        weight_back(n, 2 * F, h, d_both, 2 * F, normed, w->gate_up, packed, threads);
        bias_back(d_both, n, 2 * F, w->gate_up_bias);
#pragma omp parallel for num_threads(threads) if (threads > 1)
        for (i64 from = 0; from < n; from += step) {
            i64 some = least(step, n - from);
            float *dn = normed + from * h;
            multiply(some, h, 2 * F, d_both + from * 2 * F, 2 * F, 1, b->gate_up, dn, h, 0);
            for (i64 i = 0; i < some; i++)
                norm_back(k.middle + (from + i) * h, l->second_norm, dn + i * h, dx + (from + i) * h, h, m->eps, 1);
            multiply(some, said, h, dx + from * h, h, 1, b->out, d_said + from * said, said, 0);
        }
        gain_back(k.middle, h, normed, h, n, h, m->eps, w->second_norm);
        weight_back(n, h, said, dx, h, k.said, w->out, packed, threads);
        bias_back(dx, n, h, w->out_bias);
        memset(d_qkv, 0, 4 * n * wide);
        /* Ways share tokens, so they come one after the other; groups have columns of their own. */
#pragma omp parallel for num_threads(threads) if (threads > 1)
        for (i64 g = 0; g < G; g++)
            for (i64 way = 0; way < t->ways; way++)
                attend_way_back(m, t, &k, way, g, d_said, d_qkv, room + THREAD * room_size);
#pragma omp parallel for num_threads(threads) if (threads > 1)
        for (i64 i = 0; i < n; i++) {
            i64 at = t->position[i] * (D / 2);
            float minus[D / 2];
            for (i64 j = 0; j < D / 2; j++) minus[j] = -t->sine[at + j];
            for (i64 j = 0; j < H + G; j++) turn(d_qkv + i * wide + j * D, t->cosine + at, minus, D / 2);
            norm(k.x + i * h, l->first_norm, normed + i * h, h, m->eps);
        }
        if (l->q_norm)
            for (i64 j = 0; j < H + G; j++) {
                const float *gain = j < H ? l->q_norm : l->k_norm;
                gain_back(k.raw + j * D, wide, d_qkv + j * D, wide, n, D, m->eps, j < H ? w->q_norm : w->k_norm);
                for (i64 i = 0; i < n; i++) {
                    float d_raw[D];
                    norm_back(k.raw + i * wide + j * D, gain, d_qkv + i * wide + j * D, d_raw, D, m->eps, 0);
                    memcpy(d_qkv + i * wide + j * D, d_raw, 4 * D);
                }
            }
        weight_back(n, wide, h, d_qkv, wide, normed, w->qkv, packed, threads);
        bias_back(d_qkv, n, wide, w->qkv_bias);
#pragma omp parallel for num_threads(threads) if (threads > 1)
        for (i64 from = 0; from < n; from += step) {
            i64 some = least(step, n - from);
            float *dn = normed + from * h;
            multiply(some, h, wide, d_qkv + from * wide, wide, 1, b->qkv, dn, h, 0);
            for (i64 i = 0; i < some; i++)
                norm_back(k.x + (from + i) * h, l->first_norm, dn + i * h, dx + (from + i) * h, h, m->eps, 1);
        }
        gain_back(k.x, h, normed, h, n, h, m->eps, w->first_norm);
    }
    for (i64 i = 0; i < n; i++)
        for (i64 k = 0; k < h && t->ids[i] != m->padding; k++) d_embed[t->ids[i] * h + k] += dx[i * h + k];
}
