/*
 * A simulated Level Zero loader: the part of Sysman that LevelZeroSource asks for, for the unpatched pyzes. The
 * structures are declared here on their own, after Intel's header; the tests hold their sizes and offsets against the
 * binding's.
 */
#include "values.h"
#include <stddef.h>

typedef void *handle;
enum { NULL_HANDLE = 0x78000005 };

/*
 * A handle is (device + 1) << 16 | kind << 8 | place; its values begin with d<device> or d<device>.<kind><place>, and
 * how many there are of a kind stands at d<device>.<kind>.
 */
static const char *const kinds[] = { "", "memory", "power", "engine", "clock", "sensor", "errors" };

static const char *part(handle of)
{
    static __thread char name[4][48];
    static __thread int next;
    uintptr_t number = (uintptr_t)of;
    char *to = name[next++ % 4];
    unsigned kind = (number >> 8) & 0xFF;
    if (kind) snprintf(to, 48, "d%d.%s%d", (int)(number >> 16) - 1, kinds[kind], (int)(number & 0xFF));
    else snprintf(to, 48, "d%d", (int)(number >> 16) - 1);
    return to;
}

static int list(handle device, int kind, uint32_t *count, handle *out)
{
    uint32_t there = (uint32_t)number_of(part(device), kinds[kind], 0);
    for (uint32_t i = 0; out && i < there && i < *count; i++)
        out[i] = (handle)((uintptr_t)device | (uintptr_t)kind << 8 | i);
    *count = there;
    return 0;
}

#define FUNCTION(name, ...) EXPORTED int name(handle of, ##__VA_ARGS__)
#define BEGIN if (!of) return NULL_HANDLE; int code = called(part(of), __func__); if (code) return code
#define NUMBER(field, none) out->field = number_of(part(of), #field, none)
#define REAL(field, none) out->field = real_of(part(of), #field, none)
#define TEXT(field) snprintf(out->field, sizeof out->field, "%s", text_of(part(of), #field))
#define LIST(name, kind) FUNCTION(name, uint32_t *count, handle *out) { BEGIN; return list(of, kind, count, out); }
#define HEAD int32_t stype; void *pNext
#define PLACE_OF_PART uint8_t onSubdevice; uint32_t subdeviceId
#define PROPERTIES NUMBER(onSubdevice, 0); NUMBER(subdeviceId, 0); NUMBER(type, 0)

static uint64_t now_us(void) { return 1000000 + (uint64_t)(now_s * 1e6); }

struct core {
    HEAD; int32_t type; uint32_t vendorId, deviceId, flags, subdeviceId, coreClockRate; uint64_t maxMemAllocSize;
    uint32_t maxHardwareContexts, maxCommandQueuePriority, numThreadsPerEU, physicalEUSimdWidth, numEUsPerSubslice;
    uint32_t numSubslicesPerSlice, numSlices; uint64_t timerResolution;
    uint32_t timestampValidBits, kernelTimestampValidBits; uint8_t uuid[16]; char name[256];
};
struct device {
    HEAD; struct core core; uint32_t numSubdevices; char serialNumber[64], boardNumber[64], brandName[64];
    char modelName[64], vendorName[64], driverVersion[64];
};
struct speed { int32_t gen, width; int64_t maxBandwidth; };
struct pci { HEAD; uint32_t domain, bus, device, function; struct speed maxSpeed; uint8_t have[3]; };
struct pci_stats { uint64_t timestamp, replayCounter, packetCounter, rxCounter, txCounter; struct speed speed; };
struct memory {
    HEAD; int32_t type; PLACE_OF_PART; int32_t location; uint64_t physicalSize; int32_t busWidth, numChannels;
};
struct memory_state { HEAD; int32_t health; uint64_t free, size; };
struct bandwidth { uint64_t readCounter, writeCounter, maxBandwidth, timestamp; };
struct power {
    HEAD; PLACE_OF_PART; uint8_t canControl, isEnergyThresholdSupported; int32_t defaultLimit, minLimit, maxLimit;
};
struct power_more { HEAD; int32_t domain; void *defaultLimit; };
struct power_limit {
    HEAD; int32_t level, source, limitUnit; uint8_t enabledStateLocked, enabled, intervalValueLocked; int32_t interval;
    uint8_t limitValueLocked; int32_t limit;
};
struct energy { uint64_t energy, timestamp; };
struct clock {
    HEAD; int32_t type; PLACE_OF_PART; uint8_t canControl, isThrottleEventSupported; double min, max;
};
struct clock_state { HEAD; double currentVoltage, request, tdp, efficient, actual; uint32_t throttleReasons; };
struct throttle { uint64_t throttleTime, timestamp; };
struct sensor {
    HEAD; int32_t type; PLACE_OF_PART; double maxTemperature; uint8_t supported[3];
};
struct engine { HEAD; uint32_t type; PLACE_OF_PART; };
struct engine_stats { uint64_t activeTime, timestamp; };
struct error_set { HEAD; int32_t type; PLACE_OF_PART; };
struct error_state { HEAD; uint64_t category[7]; };
struct process { HEAD; uint32_t processId; uint64_t memSize, sharedSize; uint32_t engines; };

/* ---------------------------------------------------------------- which GPUs there are */

EXPORTED int zesInit(uint32_t flags) { (void)flags; return called("library", __func__); }

EXPORTED int zesDriverGet(uint32_t *count, handle *out)
{
    if (out) out[0] = (handle)1;
    *count = 1;
    return called("library", __func__);
}

EXPORTED int zesDeviceGet(handle driver, uint32_t *count, handle *out)
{
    uint32_t there = (uint32_t)number_of("library", "devices", 0);
    if (!driver) return NULL_HANDLE;
    for (uint32_t i = 0; out && i < there && i < *count; i++) out[i] = (handle)((uintptr_t)(i + 1) << 16);
    *count = there;
    return called("library", __func__);
}

FUNCTION(zesDeviceGetProperties, struct device *out)
{
    BEGIN;
    out->core.type = (int32_t)number_of(part(of), "type", 1);
    out->core.vendorId = (uint32_t)number_of(part(of), "vendorId", 0x8086);
    for (int i = 0; i < 16; i++) {
        char name[16];
        snprintf(name, sizeof name, "uuid.%d", i);
        out->core.uuid[i] = (uint8_t)number_of(part(of), name, 0);
    }
    snprintf(out->core.name, 256, "%s", text_of(part(of), "name"));
    NUMBER(numSubdevices, 0); TEXT(serialNumber); TEXT(modelName); TEXT(driverVersion);
    return 0;
}

FUNCTION(zesDevicePciGetProperties, struct pci *out)
{
    BEGIN;
    NUMBER(domain, 0); NUMBER(bus, 0); NUMBER(device, 0); NUMBER(function, 0);
    return 0;
}

LIST(zesDeviceEnumMemoryModules, 1)
LIST(zesDeviceEnumPowerDomains, 2)
LIST(zesDeviceEnumEngineGroups, 3)
LIST(zesDeviceEnumFrequencyDomains, 4)
LIST(zesDeviceEnumTemperatureSensors, 5)
LIST(zesDeviceEnumRasErrorSets, 6)

FUNCTION(zesMemoryGetProperties, struct memory *out) { BEGIN; PROPERTIES; NUMBER(location, 1); return 0; }
FUNCTION(zesEngineGetProperties, struct engine *out) { BEGIN; PROPERTIES; return 0; }
FUNCTION(zesFrequencyGetProperties, struct clock *out) { BEGIN; PROPERTIES; return 0; }
FUNCTION(zesTemperatureGetProperties, struct sensor *out) { BEGIN; PROPERTIES; return 0; }
FUNCTION(zesRasGetProperties, struct error_set *out) { BEGIN; PROPERTIES; return 0; }

FUNCTION(zesPowerGetProperties, struct power *out)
{
    BEGIN;
    NUMBER(onSubdevice, 0); NUMBER(subdeviceId, 0);
    NUMBER(defaultLimit, -1); NUMBER(minLimit, -1); NUMBER(maxLimit, -1);
    struct power_more *more = out->pNext;
    if (more) more->domain = (int32_t)number_of(part(of), "domain", 0);
    return 0;
}

/* ---------------------------------------------------------------- values */

FUNCTION(zesDevicePciGetStats, struct pci_stats *out) { BEGIN; NUMBER(rxCounter, 0); NUMBER(txCounter, 0); return 0; }

FUNCTION(zesMemoryGetState, struct memory_state *out)
{
    BEGIN;
    NUMBER(health, 0); NUMBER(free, 0); NUMBER(size, 0);
    return 0;
}

FUNCTION(zesMemoryGetBandwidth, struct bandwidth *out)
{
    BEGIN;
    NUMBER(readCounter, 0); NUMBER(writeCounter, 0); NUMBER(maxBandwidth, 0);
    out->timestamp = now_us();
    return 0;
}

FUNCTION(zesPowerGetEnergyCounter, struct energy *out)
{
    BEGIN;
    NUMBER(energy, 0);
    out->timestamp = now_us();
    return 0;
}

FUNCTION(zesPowerGetLimitsExt, uint32_t *count, struct power_limit *out)
{
    BEGIN;
    *count = 1;
    if (!out) return 0;
    NUMBER(level, 1); NUMBER(limitUnit, 2); NUMBER(enabled, 1); NUMBER(limit, -1);
    return 0;
}

FUNCTION(zesEngineGetActivity, struct engine_stats *out)
{
    BEGIN;
    NUMBER(activeTime, 0);
    out->timestamp = now_us();
    return 0;
}

FUNCTION(zesFrequencyGetState, struct clock_state *out) { BEGIN; REAL(actual, -1); return 0; }
FUNCTION(zesFrequencyGetThrottleTime, struct throttle *out) { BEGIN; NUMBER(throttleTime, 0); return 0; }

FUNCTION(zesTemperatureGetState, double *out)
{
    BEGIN;
    *out = real_of(part(of), "celsius", 0.0);
    return 0;
}

FUNCTION(zesRasGetState, uint8_t clear, struct error_state *out)
{
    BEGIN;
    if (clear) return NULL_HANDLE; /* counters must not be cleared */
    for (int i = 0; i < 7; i++) {
        char name[16];
        snprintf(name, sizeof name, "category.%d", i);
        out->category[i] = number_of(part(of), name, 0);
    }
    return 0;
}

FUNCTION(zesDeviceProcessesGetState, uint32_t *count, struct process *out)
{
    BEGIN;
    *count = (uint32_t)number_of(part(of), "processes", 0);
    for (uint32_t i = 0; out && i < *count; i++) {
        char name[32];
        snprintf(name, sizeof name, "process%u", i);
        out[i].processId = (uint32_t)number_of(part(of), joined(name, "processId"), 0);
        out[i].memSize = number_of(part(of), joined(name, "memSize"), 0);
    }
    return 0;
}

/* ---------------------------------------------------------------- how large our structures are */

#define SIZE(theirs, own) { #theirs, sizeof(struct own) }
static const struct { const char *name; size_t bytes; } sizes[] = {
    SIZE(zes_device_properties_t, device), SIZE(zes_pci_properties_t, pci), SIZE(zes_pci_stats_t, pci_stats),
    SIZE(zes_mem_properties_t, memory), SIZE(zes_mem_state_t, memory_state), SIZE(zes_mem_bandwidth_t, bandwidth),
    SIZE(zes_power_properties_t, power), SIZE(zes_power_ext_properties_t, power_more),
    SIZE(zes_power_limit_ext_desc_t, power_limit), SIZE(zes_power_energy_counter_t, energy),
    SIZE(zes_freq_properties_t, clock), SIZE(zes_freq_state_t, clock_state), SIZE(zes_freq_throttle_time_t, throttle),
    SIZE(zes_temp_properties_t, sensor), SIZE(zes_engine_properties_t, engine), SIZE(zes_engine_stats_t, engine_stats),
    SIZE(zes_process_state_t, process), SIZE(RasProperties, error_set), SIZE(RasState, error_state),
};

#define PLACE(theirs, own, field) { #theirs "." #field, offsetof(struct own, field) }
static const struct { const char *name; size_t bytes; } places[] = {
    PLACE(zes_device_properties_t, device, driverVersion), PLACE(zes_mem_properties_t, memory, location),
    PLACE(zes_power_properties_t, power, defaultLimit), PLACE(zes_power_limit_ext_desc_t, power_limit, limit),
    PLACE(zes_freq_state_t, clock_state, actual), PLACE(RasState, error_state, category),
};

EXPORTED const char *simulated_size(int index, size_t *bytes)
{
    int of_sizes = sizeof sizes / sizeof *sizes, of_places = sizeof places / sizeof *places;
    if (index >= of_sizes + of_places) return NULL;
    *bytes = index < of_sizes ? sizes[index].bytes : places[index - of_sizes].bytes;
    return index < of_sizes ? sizes[index].name : places[index - of_sizes].name;
}
