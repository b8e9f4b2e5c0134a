/* The scan of long sequences of small steps on a CPU: one pass over memory, which calls of torch cannot be.

   Plain C and the compiler's own vectors: the work is bound by memory. `cpu.py` calls it where it has been built, and
   does without where it has not. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define PREFETCH(address, writes) __builtin_prefetch(address, writes)
#else
#define PREFETCH(address, writes) ((void)0)
#endif

#define LINE 64
#define AHEAD 4096 /* bytes: processors see where steps in reverse lead to too late to fetch them */

static void prefetch(const char *step, Py_ssize_t stride, Py_ssize_t size, int writes)
{
    const char *ahead = step + stride * (1 + AHEAD / (size + 1));
    for (Py_ssize_t i = 0; i < size; i += LINE)
        PREFETCH(ahead + i, writes);
}

typedef struct {
    const void *a, *b, *state;
    void *h;
    const char *starts; /* NULL: no segments */
    Py_ssize_t a_batch, a_step, b_batch, b_step, h_batch, h_step, starts_batch, starts_step; /* strides in reals */
    Py_ssize_t batch, time, repeats, width; /* a step is `repeats` rows of `width` reals; a has one row where constant */
    int varying, complex, conjugate, reverse;
} Scan;

/* Walk along time in every batch row: h = a * (the state before) + b. Complex numbers are pairs of reals. */
#define DEFINE_WALK(NAME, REAL)                                                                                        \
    static void NAME##_row(REAL *restrict h, const REAL *restrict a, const REAL *before, const REAL *restrict b,       \
                           Py_ssize_t width)                                                                           \
    {                                                                                                                  \
        for (Py_ssize_t i = 0; i < width; i++)                                                                         \
            h[i] = a[i] * before[i] + b[i];                                                                            \
    }                                                                                                                  \
                                                                                                                       \
    static void NAME##_complex_row(REAL *restrict h, const REAL *restrict a, const REAL *before,                       \
                                   const REAL *restrict b, Py_ssize_t width, REAL sign)                                \
    {                                                                                                                  \
        for (Py_ssize_t i = 0; i < width; i += 2) {                                                                    \
            REAL imaginary = sign * a[i + 1];                                                                          \
            h[i] = a[i] * before[i] - imaginary * before[i + 1] + b[i];                                                \
            h[i + 1] = a[i] * before[i + 1] + imaginary * before[i] + b[i + 1];                                        \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    static void NAME(const Scan *scan)                                                                                 \
    {                                                                                                                  \
        Py_ssize_t lanes = scan->repeats * scan->width;                                                                \
        REAL sign = scan->conjugate ? -1 : 1;                                                                          \
        for (Py_ssize_t n = 0; n < scan->batch; n++) {                                                                 \
            const REAL *before = (const REAL *)scan->state + n * lanes;                                                \
            for (Py_ssize_t s = 0; s < scan->time; s++) {                                                              \
                Py_ssize_t t = scan->reverse ? scan->time - 1 - s : s;                                                 \
                const REAL *a = (const REAL *)scan->a + n * scan->a_batch + t * scan->a_step;                          \
                const REAL *b = (const REAL *)scan->b + n * scan->b_batch + t * scan->b_step;                          \
                REAL *h = (REAL *)scan->h + n * scan->h_batch + t * scan->h_step;                                      \
                if (scan->reverse) {                                                                                   \
                    Py_ssize_t size = lanes * sizeof(REAL);                                                            \
                    prefetch((const char *)b, -scan->b_step * (Py_ssize_t)sizeof(REAL), size, 0);                      \
                    prefetch((const char *)h, -scan->h_step * (Py_ssize_t)sizeof(REAL), size, 1);                      \
                    if (scan->varying)                                                                                 \
                        prefetch((const char *)a, -scan->a_step * (Py_ssize_t)sizeof(REAL), size, 0);                  \
                }                                                                                                      \
                if (scan->starts && scan->starts[n * scan->starts_batch + t * scan->starts_step])                      \
                    memcpy(h, b, lanes * sizeof(REAL));                                                                \
                else                                                                                                   \
                    for (Py_ssize_t r = 0; r < lanes; r += scan->width) {                                              \
                        const REAL *row = scan->varying ? a + r : a;                                                   \
                        if (scan->complex)                                                                             \
                            NAME##_complex_row(h + r, row, before + r, b + r, scan->width, sign);                      \
                        else                                                                                           \
                            NAME##_row(h + r, row, before + r, b + r, scan->width);                                    \
                    }                                                                                                  \
                before = h;                                                                                            \
            }                                                                                                          \
        }                                                                                                              \
    }

DEFINE_WALK(walk_single, float)
DEFINE_WALK(walk_double, double)

static PyObject *run(PyObject *self, PyObject *arguments)
{
    Scan scan;
    unsigned long long a, b, state, h, starts;
    int is_double;
    if (!PyArg_ParseTuple(arguments, "(Knn)(Knn)(Knn)(Knn)K(nnnn)(ppppp)", &a, &scan.a_batch, &scan.a_step, &b,
                          &scan.b_batch, &scan.b_step, &h, &scan.h_batch, &scan.h_step, &starts, &scan.starts_batch,
                          &scan.starts_step, &state, &scan.batch, &scan.time, &scan.repeats, &scan.width,
                          &is_double, &scan.varying, &scan.complex, &scan.conjugate, &scan.reverse))
        return NULL;
    scan.a = (const void *)(uintptr_t)a;
    scan.b = (const void *)(uintptr_t)b;
    scan.h = (void *)(uintptr_t)h;
    scan.state = (const void *)(uintptr_t)state;
    scan.starts = (const char *)(uintptr_t)starts;
    Py_BEGIN_ALLOW_THREADS
    (is_double ? walk_double : walk_single)(&scan);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"run", run, METH_VARARGS, "Walk along time; arguments as in `run_native` of cpu.py."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "native", .m_size = 0, .m_methods = methods};

PyMODINIT_FUNC PyInit_native(void) { return PyModule_Create(&definition); }
