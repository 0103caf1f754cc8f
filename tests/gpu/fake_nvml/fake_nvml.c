/*
 * A simulated libnvidia-ml.so.1 for tests: unpatched nvidia-ml-py loads it as if a driver were here.
 *
 * What it answers stands in a flat text file that tests/harness/gpu/nvidia/source.py writes: the scenario. Its path comes from
 * ai_otel_fake_nvml_use() or from FAKE_NVML_SCENARIO, and is read at the first nvmlInit. A value is a piecewise-linear
 * function of time; time is a double in a mapped file that a test moves, or CLOCK_MONOTONIC since `origin`.
 *
 * A device supports what its scenario has: a series that is not there is NVML_ERROR_NOT_SUPPORTED. Symbols are left out
 * by the linker (a version script), so that dlsym does not find them. The structures are declared here and not taken from
 * NVIDIA's header; a test compares their sizes with those of nvidia-ml-py.
 *
 *   cc -shared -fPIC -O1 -Wl,-soname,libnvidia-ml.so.1 -o libnvidia-ml.so.1 fake_nvml.c -lm -lpthread
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
       TIMED_OUT = 10, GPU_IS_LOST = 15, VERSION_MISMATCH = 25 };
enum { T_DOUBLE, T_UINT, T_ULONG, T_ULLONG, T_SLLONG, T_SINT, T_USHORT };

/* ------------------------------------------------------------------ NVML's structures, in our own words */

typedef union { double d; unsigned ui; unsigned long ul; unsigned long long ull; long long sll; int si; unsigned short us; } Value;
typedef struct { unsigned field, scope; long long timestamp, latency; unsigned type, code; Value value; } FieldValue;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory2;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned version, sensor; int celsius; } Temperature;
typedef struct { unsigned id, code; double value; struct { char *brief, *full, *unit; } names; } GpmMetric;
typedef struct { unsigned version, count; void *sample1, *sample2; GpmMetric metrics[]; } GpmMetrics;
typedef struct { unsigned version, supported; } GpmSupport;
typedef struct { void *device; unsigned long long type, data; unsigned gi, ci; } EventData;
typedef struct { unsigned pid; unsigned long long memory; unsigned gi, ci; } Process;
typedef struct { unsigned pid; unsigned long long timestamp; unsigned sm, memory, encoder, decoder; } ProcessSample;
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } Pci;
typedef struct { unsigned sms, copy, decoder, encoder, jpeg, ofa, gi_slices, ci_slices; unsigned long long memory_mb; } Attributes;

/* ------------------------------------------------------------------ the scenario */

#define MOST 64
typedef struct { int count; double t[MOST], v[MOST]; } Series;
typedef struct { char name[48]; Series series; } Named;
typedef struct { char name[24], value[128]; } Text;
typedef struct { unsigned id; long scope; unsigned type; int code; char source[16]; Series series; } Field;
typedef struct { char call[64]; int code; double from; unsigned latency_us; } Rule;
typedef struct { unsigned pid; long long memory; int gi; Series sm; } Holder;
typedef struct { double t; unsigned xid, gi; } Xid;
typedef struct Device {
    int mig, gi, ci, named, texts, fields, rules, holders, xids, resets, instances, empty_success;
    struct Device *parent, *instance[8];
    Named name[MOST]; Text text[16]; Field field[MOST]; Rule rule[MOST]; Holder holder[16]; Xid xid[32];
    double reset[8], lost;
} Device;

static Device devices[32], global;
static int device_count, gpu_count, initialised, live_samples, live_sets;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char scenario[512], driver[80], version[80];
static double origin, *mapped;
static struct { char name[64]; int calls; } counted[160];

static double now(void) {
    if (mapped) return *(volatile double *)mapped;
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9 - origin;
}

static double at(const Series *s, double t) {
    if (t <= s->t[0]) return s->v[0];
    for (int i = 1; i < s->count; i++)
        if (t < s->t[i]) return s->v[i - 1] + (s->v[i] - s->v[i - 1]) * (t - s->t[i - 1]) / (s->t[i] - s->t[i - 1]);
    return s->v[s->count - 1];
}

/* From 0 to t; a step is two points at one time. */
static double integral(const Series *s, double t) {
    double sum = 0, from = 0, value = at(s, 0);
    for (int i = 0; i < s->count && s->t[i] < t; i++) {
        if (s->t[i] < 0) continue;
        sum += (at(s, nextafter(s->t[i], -1)) + value) / 2 * (s->t[i] - from);
        from = s->t[i], value = s->v[i];
    }
    return t > from ? sum + (value + at(s, nextafter(t, -1))) / 2 * (t - from) : sum;
}

static double mean(const Series *s, double from, double to) {
    return to > from ? (integral(s, to) - integral(s, from)) / (to - from) : at(s, to);
}

static const Series *find(const Device *d, const char *name) {
    for (int i = 0; i < d->named; i++) if (!strcmp(d->name[i].name, name)) return &d->name[i].series;
    return NULL;
}

static double constant(const Device *d, const char *name, double otherwise) {
    const Series *s = find(d, name);
    return s ? at(s, now()) : otherwise;
}

static unsigned long long energy_mj(const Device *d, double t) {
    double quantum = constant(d, "energy_quantum_s", 0.1), from = 0, base = constant(d, "energy_base_j", 0);
    const Series *power = find(d, "power_w");
    for (int i = 0; i < d->resets; i++) if (d->reset[i] <= t) from = d->reset[i], base = 0;
    double until = fmax(from, floor(t / quantum + 1e-6) * quantum);
    return power ? (unsigned long long)((base + integral(power, until) - integral(power, from)) * 1000 + 1e-3) : 0;
}

static void series_of(Series *s, char *text) {
    int used;
    for (s->count = 0; s->count < MOST && sscanf(text, " %lf %lf%n", &s->t[s->count], &s->v[s->count], &used) == 2; text += used)
        s->count++;
}

static void map_clock(const char *path) {
    int file = open(path, O_RDONLY);
    void *page = file < 0 ? MAP_FAILED : mmap(NULL, sizeof(double), PROT_READ, MAP_SHARED, file, 0);
    if (file >= 0) close(file);
    mapped = page == MAP_FAILED ? NULL : page;
}

static Device *begun(char *rest) {
    Device *d = &devices[device_count++];
    int parent = 0;
    memset(d, 0, sizeof *d);
    d->lost = INFINITY;
    if (sscanf(rest, " mig %d %d %d", &parent, &d->gi, &d->ci) == 3) {
        d->mig = 1, d->parent = &devices[parent];
        d->parent->instance[d->parent->instances++] = d;
    } else gpu_count = device_count;
    return d;
}

/* GPUs come first, then their MIG instances: a GPU's index is its place. */
static int load(void) {
    char line[4096], word[32];
    int used;
    Device *d = &global;
    const char *path = *scenario ? scenario : getenv("FAKE_NVML_SCENARIO");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) return 9; /* no scenario: NVML_ERROR_DRIVER_NOT_LOADED */
    memset(&global, 0, sizeof global);
    global.lost = INFINITY;
    device_count = gpu_count = 0, mapped = NULL, origin = 0;
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        if (sscanf(line, "%31s%n", word, &used) != 1) continue;
        char *rest = line + used;
        if (!strcmp(word, "clock")) map_clock(rest + 1);
        else if (!strcmp(word, "origin")) sscanf(rest, "%lf", &origin);
        else if (!strcmp(word, "driver")) sscanf(rest, "%79s", driver);
        else if (!strcmp(word, "nvml")) sscanf(rest, "%79s", version);
        else if (!strcmp(word, "device")) d = begun(rest);
        else if (!strcmp(word, "text")) { Text *t = &d->text[d->texts++]; sscanf(rest, " %23s %127[^\n]", t->name, t->value); }
        else if (!strcmp(word, "series")) { Named *n = &d->name[d->named++]; sscanf(rest, " %47s%n", n->name, &used); series_of(&n->series, rest + used); }
        else if (!strcmp(word, "field")) {
            Field *f = &d->field[d->fields++];
            sscanf(rest, " %u %ld %u %d %15s%n", &f->id, &f->scope, &f->type, &f->code, f->source, &used);
            series_of(&f->series, rest + used);
        } else if (!strcmp(word, "rule")) { Rule *r = &d->rule[d->rules++]; sscanf(rest, " %63s %d %lf %u", r->call, &r->code, &r->from, &r->latency_us); }
        else if (!strcmp(word, "holder")) { Holder *h = &d->holder[d->holders++]; sscanf(rest, " %u %lld %d%n", &h->pid, &h->memory, &h->gi, &used); series_of(&h->sm, rest + used); }
        else if (!strcmp(word, "xid")) { Xid *x = &d->xid[d->xids++]; sscanf(rest, " %lf %u %u", &x->t, &x->xid, &x->gi); }
        else if (!strcmp(word, "reset")) sscanf(rest, "%lf", &d->reset[d->resets++]);
        else if (!strcmp(word, "lost")) sscanf(rest, "%lf", &d->lost);
        else if (!strcmp(word, "empty_success")) d->empty_success = 1;
        else fprintf(stderr, "fake NVML: what is %s?\n", word);
    }
    fclose(file);
    return OK;
}

/* ------------------------------------------------------------------ what every call does first */

static void count(const char *call) {
    pthread_mutex_lock(&lock);
    for (int i = 0; i < 160; i++)
        if (!*counted[i].name || !strcmp(counted[i].name, call)) { strcpy(counted[i].name, call); counted[i].calls++; break; }
    pthread_mutex_unlock(&lock);
}

static int ruled(const Device *d, const char *call) {
    int code = OK;
    for (int i = 0; i < d->rules; i++) {
        const Rule *r = &d->rule[i];
        if (strcmp(r->call, call) || now() < r->from) continue;
        if (r->latency_us) usleep(r->latency_us);
        code = r->code;
    }
    return code;
}

static int entered(const char *call, const Device *d) {
    count(call);
    if (!initialised) return UNINITIALIZED;
    int code = ruled(&global, call);
    if (code || !d) return code;
    if (now() >= (d->mig ? d->parent->lost : d->lost)) return GPU_IS_LOST;
    return ruled(d, call);
}

#define ENTER(device) do { int code_ = entered(__func__, device); if (code_) return code_; } while (0)

static int number(const Device *d, const char *name, unsigned *out) {
    const Series *s = find(d, name);
    if (!s) return NOT_SUPPORTED;
    *out = (unsigned)(long long)llround(at(s, now()));
    return OK;
}

static int text(const Device *d, const char *name, char *out, unsigned size) {
    for (int i = 0; i < d->texts; i++)
        if (!strcmp(d->text[i].name, name)) { snprintf(out, size, "%s", d->text[i].value); return OK; }
    return NOT_SUPPORTED;
}

/* ------------------------------------------------------------------ for the tests only */

void ai_otel_fake_nvml_use(const char *path) { snprintf(scenario, sizeof scenario, "%s", path); }
void ai_otel_fake_nvml_forget_calls(void) { memset(counted, 0, sizeof counted); live_samples = live_sets = 0; }
int ai_otel_fake_nvml_calls(const char *call) {
    for (int i = 0; i < 160; i++) if (!strcmp(counted[i].name, call)) return counted[i].calls;
    return 0;
}
int ai_otel_fake_nvml_live(const char *what) {
    return !strcmp(what, "samples") ? live_samples : !strcmp(what, "event sets") ? live_sets : !strcmp(what, "inits") ? initialised : -1;
}
int ai_otel_fake_nvml_sizeof(const char *what) {
#define SIZE(type) if (!strcmp(what, #type)) return (int)sizeof(type)
    SIZE(FieldValue); SIZE(Memory); SIZE(Memory2); SIZE(Utilization); SIZE(Temperature); SIZE(GpmMetric); SIZE(GpmMetrics);
    SIZE(GpmSupport); SIZE(EventData); SIZE(Process); SIZE(ProcessSample); SIZE(Pci); SIZE(Attributes); SIZE(Value);
    return -1;
}

/* ------------------------------------------------------------------ the library */

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    count(__func__);
    if (!initialised) { int code = load(); if (code) return code; }
    int code = ruled(&global, __func__);
    if (!code) initialised++;
    return code;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) {
    count(__func__);
    if (!initialised) return UNINITIALIZED;
    initialised--;
    return OK;
}
const char *nvmlErrorString(int code) { static char words[40]; snprintf(words, sizeof words, "simulated error %d", code); return words; }
int nvmlSystemGetDriverVersion(char *out, unsigned size) { ENTER(NULL); snprintf(out, size, "%s", driver); return OK; }
int nvmlSystemGetNVMLVersion(char *out, unsigned size) { ENTER(NULL); snprintf(out, size, "%s", version); return OK; }
int nvmlSystemGetCudaDriverVersion(int *out) { ENTER(NULL); *out = 13000; return OK; }
int nvmlDeviceGetCount_v2(unsigned *out) { ENTER(NULL); *out = gpu_count; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **out) {
    ENTER(NULL);
    if (index >= (unsigned)gpu_count) return INVALID_ARGUMENT;
    ENTER(&devices[index]);
    *out = &devices[index];
    return OK;
}
int nvmlDeviceGetUUID(Device *d, char *out, unsigned size) { ENTER(d); return text(d, "uuid", out, size); }
int nvmlDeviceGetName(Device *d, char *out, unsigned size) { ENTER(d); return text(d, "name", out, size); }
int nvmlDeviceGetSerial(Device *d, char *out, unsigned size) { ENTER(d); return text(d, "serial", out, size); }
int nvmlDeviceGetVbiosVersion(Device *d, char *out, unsigned size) { ENTER(d); return text(d, "vbios", out, size); }
int nvmlDeviceGetMinorNumber(Device *d, unsigned *out) { ENTER(d); return number(d, "minor", out); }
int nvmlDeviceGetPersistenceMode(Device *d, unsigned *out) { ENTER(d); return number(d, "persistence", out); }
int nvmlDeviceGetArchitecture(Device *d, unsigned *out) { ENTER(d); return number(d, "architecture", out); }
int nvmlDeviceGetCudaComputeCapability(Device *d, int *major, int *minor) {
    ENTER(d);
    unsigned both;
    if (number(d, "compute_capability", &both)) return NOT_SUPPORTED;
    *major = both / 10, *minor = both % 10;
    return OK;
}
int nvmlDeviceGetPciInfo_v3(Device *d, Pci *out) {
    ENTER(d);
    memset(out, 0, sizeof *out);
    return text(d, "bus_id", out->bus_id, sizeof out->bus_id);
}
int nvmlDeviceGetMaxPcieLinkGeneration(Device *d, unsigned *out) { ENTER(d); return number(d, "pcie_generation", out); }
int nvmlDeviceGetMaxPcieLinkWidth(Device *d, unsigned *out) { ENTER(d); return number(d, "pcie_width", out); }
/* Blocks 20 ms, like the real one: must not be called. */
int nvmlDeviceGetPcieThroughput(Device *d, int counter, unsigned *out) { (void)counter; ENTER(d); usleep(20000); *out = 0; return OK; }

int nvmlDeviceGetMemoryInfo(Device *d, Memory *out) {
    ENTER(d);
    if (!find(d, "memory_total")) return NOT_SUPPORTED;
    out->total = constant(d, "memory_total", 0);
    out->used = constant(d, "memory_used", 0) + constant(d, "memory_reserved", 0);
    out->free = out->total - out->used;
    return OK;
}
int nvmlDeviceGetMemoryInfo_v2(Device *d, Memory2 *out) {
    ENTER(d);
    if (out->version != 0x02000028) return VERSION_MISMATCH;
    if (!find(d, "memory_total")) return NOT_SUPPORTED;
    out->total = constant(d, "memory_total", 0), out->reserved = constant(d, "memory_reserved", 0);
    out->used = constant(d, "memory_used", 0);
    out->free = out->total - out->used - out->reserved;
    if (find(d, "memory_v2_used_has_reserved")) out->used += out->reserved;
    return OK;
}
int nvmlDeviceGetUtilizationRates(Device *d, Utilization *out) {
    ENTER(d);
    return number(d, "utilization", &out->gpu) || number(d, "memory_busy", &out->memory) ? NOT_SUPPORTED : OK;
}
int nvmlDeviceGetEncoderUtilization(Device *d, unsigned *out, unsigned *period) { ENTER(d); *period = 167000; return number(d, "encoder", out); }
int nvmlDeviceGetDecoderUtilization(Device *d, unsigned *out, unsigned *period) { ENTER(d); *period = 167000; return number(d, "decoder", out); }
int nvmlDeviceGetClockInfo(Device *d, unsigned type, unsigned *out) {
    static const char *names[] = {"clock_graphics", "clock_sm", "clock_memory", "clock_video"};
    ENTER(d);
    return type > 3 ? INVALID_ARGUMENT : number(d, names[type], out);
}
int nvmlDeviceGetTemperature(Device *d, unsigned sensor, unsigned *out) { ENTER(d); return sensor ? INVALID_ARGUMENT : number(d, "temperature", out); }
int nvmlDeviceGetTemperatureV(Device *d, Temperature *out) {
    ENTER(d);
    if (out->version != 0x0100000C) return VERSION_MISMATCH;
    return out->sensor ? INVALID_ARGUMENT : number(d, "temperature", (unsigned *)&out->celsius);
}
int nvmlDeviceGetTemperatureThreshold(Device *d, unsigned threshold, unsigned *out) {
    char name[32];
    ENTER(d);
    snprintf(name, sizeof name, "threshold.%u", threshold);
    return number(d, name, out);
}
int nvmlDeviceGetNumFans(Device *d, unsigned *out) { ENTER(d); return number(d, "fans", out); }
int nvmlDeviceGetFanSpeed_v2(Device *d, unsigned fan, unsigned *out) { (void)fan; ENTER(d); return number(d, "fan_speed", out); }
int nvmlDeviceGetPowerUsage(Device *d, unsigned *out) {
    ENTER(d);
    const Series *power = find(d, "power_w");
    if (!power) return NOT_SUPPORTED;
    *out = (unsigned)llround(mean(power, fmax(0, now() - 1), now()) * 1000);
    return OK;
}
int nvmlDeviceGetTotalEnergyConsumption(Device *d, unsigned long long *out) {
    ENTER(d);
    if (!find(d, "power_w") || find(d, "no_energy")) return NOT_SUPPORTED;
    *out = energy_mj(d, now());
    return OK;
}

static void answer(const Device *d, FieldValue *out) {
    double t = now(), value = 0;
    memset(&out->value, 0xA5, sizeof out->value); /* undefined for the caller */
    out->code = NOT_SUPPORTED, out->type = T_UINT, out->timestamp = (long long)(t * 1e6), out->latency = 7;
    for (int i = 0; i < d->fields; i++) {
        const Field *f = &d->field[i];
        if (f->id != out->field || (f->scope >= 0 && (unsigned)f->scope != out->scope)) continue;
        out->code = f->code, out->type = f->type;
        if (f->code) return;
        if (!strcmp(f->source, "energy")) { out->value.ull = energy_mj(d, t); return; }
        if (!strcmp(f->source, "average")) value = mean(find(d, "power_w"), fmax(0, t - 1), t) * 1000;
        else if (!strcmp(f->source, "instant")) value = at(find(d, "power_w"), t) * 1000;
        else value = at(&f->series, t);
        switch (f->type) {
            case T_DOUBLE: out->value.d = value; break;
            case T_UINT: out->value.ui = (unsigned)(unsigned long long)llround(value); break; /* wraps */
            case T_ULONG: out->value.ul = (unsigned long)llround(value); break;
            case T_ULLONG: out->value.ull = value >= 1.8e19 ? ~0ULL : (unsigned long long)value; break;
            case T_SLLONG: out->value.sll = llround(value); break;
            case T_SINT: out->value.si = (int)llround(value); break;
            default: out->value.us = (unsigned short)llround(value);
        }
        return;
    }
}
int nvmlDeviceGetFieldValues(Device *d, int count, FieldValue *values) {
    ENTER(d);
    if (d->mig) return NOT_SUPPORTED;
    for (int i = 0; i < count; i++) answer(d, &values[i]);
    return OK;
}

/* ------------------------------------------------------------------ MIG */

int nvmlDeviceGetMigMode(Device *d, unsigned *current, unsigned *pending) { ENTER(d); *pending = constant(d, "mig_mode", 0); return number(d, "mig_mode", current); }
int nvmlDeviceGetMaxMigDeviceCount(Device *d, unsigned *out) { ENTER(d); *out = 7; return OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(Device *d, unsigned index, Device **out) {
    ENTER(d);
    /* The first place is free, as after an instance was destroyed. */
    if (index < 1 || index > (unsigned)d->instances) return NOT_FOUND;
    *out = d->instance[index - 1];
    return OK;
}
int nvmlDeviceGetGpuInstanceId(Device *d, unsigned *out) { ENTER(d); *out = d->gi; return d->mig ? OK : INVALID_ARGUMENT; }
int nvmlDeviceGetComputeInstanceId(Device *d, unsigned *out) { ENTER(d); *out = d->ci; return d->mig ? OK : INVALID_ARGUMENT; }
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Device *d, Device **out) { ENTER(d); *out = d->parent; return d->mig ? OK : INVALID_ARGUMENT; }
int nvmlDeviceGetAttributes_v2(Device *d, Attributes *out) {
    ENTER(d);
    memset(out, 0, sizeof *out);
    out->memory_mb = (unsigned long long)(constant(d, "memory_total", 0) / 1048576);
    out->ci_slices = 1;
    return d->mig ? number(d, "slices", &out->gi_slices) : NOT_SUPPORTED;
}

/* ------------------------------------------------------------------ GPM */

typedef struct { double t; Device *device; } Sample;

int nvmlGpmQueryDeviceSupport(Device *d, GpmSupport *out) {
    ENTER(d);
    if (out->version != 1) return VERSION_MISMATCH;
    out->supported = (unsigned)constant(d, "gpm", 0);
    return OK;
}
int nvmlGpmSampleAlloc(Sample **out) { ENTER(NULL); *out = calloc(1, sizeof **out); live_samples++; return OK; }
int nvmlGpmSampleFree(Sample *s) { ENTER(NULL); free(s); live_samples--; return OK; }
int nvmlGpmSampleGet(Device *d, Sample *s) {
    ENTER(d);
    if (!constant(d, "gpm", 0)) return NOT_SUPPORTED;
    s->t = now(), s->device = d;
    return OK;
}
int nvmlGpmMigSampleGet(Device *d, unsigned gi, Sample *s) {
    ENTER(d);
    if (!constant(d, "gpm", 0)) return NOT_SUPPORTED;
    for (int i = 0; i < d->instances; i++)
        if (d->instance[i]->gi == (int)gi) { s->t = now(), s->device = d->instance[i]; return OK; }
    return NOT_FOUND;
}
int nvmlGpmMetricsGet(GpmMetrics *out) {
    ENTER(NULL);
    Sample *a = out->sample1, *b = out->sample2;
    if (out->version != 1) return VERSION_MISMATCH;
    if (!a || !b || !a->device || a->device != b->device || a->t > b->t) return INVALID_ARGUMENT;
    for (unsigned i = 0; i < out->count; i++) {
        GpmMetric *m = &out->metrics[i];
        char name[32];
        snprintf(name, sizeof name, "gpm_code.%u", m->id);
        m->code = (unsigned)constant(a->device, name, 0);
        snprintf(name, sizeof name, "gpm.%u", m->id);
        const Series *s = find(a->device, name);
        if (!s && !m->code) m->code = NOT_SUPPORTED;
        m->value = m->code ? 12345678.0 : mean(s, a->t, b->t);
    }
    return OK;
}

/* ------------------------------------------------------------------ processes */

int nvmlDeviceGetComputeRunningProcesses_v3(Device *d, unsigned *count, Process *out) {
    ENTER(d);
    const Device *gpu = d->mig ? d->parent : d;
    unsigned found = 0, room = *count;
    for (int i = 0; i < gpu->holders; i++) {
        const Holder *h = &gpu->holder[i];
        if (d->mig && h->gi != d->gi) continue;
        if (out && found < room) {
            Process p = {h->pid, h->memory < 0 ? ~0ULL : (unsigned long long)h->memory, h->gi < 0 ? ~0U : (unsigned)h->gi, ~0U};
            out[found] = p;
        }
        found++;
    }
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : OK;
}
int nvmlDeviceGetComputeRunningProcesses_v2(Device *d, unsigned *count, Process *out) {
    return nvmlDeviceGetComputeRunningProcesses_v3(d, count, out);
}
int nvmlDeviceGetProcessUtilization(Device *d, ProcessSample *out, unsigned *count, unsigned long long since) {
    ENTER(d);
    if (find(d, "no_process_utilization") || constant(d, "mig_mode", 0)) return NOT_SUPPORTED;
    unsigned found = 0, room = *count;
    unsigned long long stamp = (unsigned long long)(floor(now() * 6) / 6 * 1e6);
    for (int i = 0; i < d->holders; i++) {
        /* One smoothed row for each process that computed since then, whether it still does or not. */
        unsigned sm = stamp > since ? (unsigned)mean(&d->holder[i].sm, since / 1e6, stamp / 1e6) : 0;
        if (!sm) continue;
        if (out && found < room) { ProcessSample p = {d->holder[i].pid, stamp, sm, 0, 0, 0}; out[found] = p; }
        found++;
    }
    *count = found;
    if (!found) return d->empty_success ? OK : NOT_FOUND;
    return found > room ? INSUFFICIENT_SIZE : OK;
}

/* ------------------------------------------------------------------ events */

typedef struct { Device *device[32]; double since[32]; int count, reported[32][32]; } EventSet;

int nvmlEventSetCreate(EventSet **out) { ENTER(NULL); *out = calloc(1, sizeof **out); live_sets++; return OK; }
int nvmlEventSetFree(EventSet *set) { ENTER(NULL); free(set); live_sets--; return OK; }
int nvmlDeviceGetSupportedEventTypes(Device *d, unsigned long long *out) { ENTER(d); *out = find(d, "no_events") ? 0 : 0x8; return d->mig ? NOT_SUPPORTED : OK; }
int nvmlDeviceRegisterEvents(Device *d, unsigned long long types, EventSet *set) {
    ENTER(d);
    if (d->mig || find(d, "no_events")) return NOT_SUPPORTED;
    if (!(types & 8)) return INVALID_ARGUMENT;
    set->device[set->count] = d, set->since[set->count++] = now();
    return OK;
}
static int heard(EventSet *set, EventData *out) {
    for (int i = 0; i < set->count; i++) {
        Device *d = set->device[i];
        if (now() >= d->lost) return GPU_IS_LOST;
        for (int k = 0; k < d->xids; k++) {
            if (set->reported[i][k] || d->xid[k].t > now() || d->xid[k].t < set->since[i]) continue; /* earlier events are not delivered */
            set->reported[i][k] = 1;
            EventData data = {d, 8, d->xid[k].xid, d->xid[k].gi, ~0U};
            *out = data;
            return OK;
        }
    }
    return TIMED_OUT;
}
int nvmlEventSetWait_v2(EventSet *set, EventData *out, unsigned timeout_ms) {
    ENTER(NULL);
    /* A test that moves the clock waits for us; a server must not be kept busy. */
    unsigned step_ms = mapped ? 2 : 20;
    for (unsigned waited = 0;; waited += step_ms) {
        int code = heard(set, out);
        if (code != TIMED_OUT || waited >= timeout_ms) return code;
        usleep(step_ms * 1000);
    }
}
