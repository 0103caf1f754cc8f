/*
 * A simulated libamd_smi: what AmdSmiSource asks for, for the unpatched binding. The structures are declared here on
 * their own, after AMD's header; the tests hold their sizes and offsets against the binding's. The rest of the library
 * is generated: every other symbol of the binding, which returns not supported.
 */
#include "values.h"
#include <stddef.h>

typedef void *handle;
enum { NOT_SUPPORTED = 2 };

/* A handle is 1 + 64 * socket + place; its values begin with h<socket>.<place>. */
static const char *part(handle of)
{
    static __thread char name[4][32];
    static __thread int next;
    uintptr_t number = (uintptr_t)of - 1;
    char *to = name[next++ % 4];
    snprintf(to, 32, "h%d.%d", (int)(number / 64), (int)(number % 64));
    return to;
}

#define FUNCTION(name, ...) EXPORTED int name(handle of, ##__VA_ARGS__)
#define BEGIN int code = called(part(of), __func__); if (code) return code
#define NUMBER(field, none) out->field = number_of(part(of), #field, none)
#define TEXT(field) snprintf(out->field, sizeof out->field, "%s", text_of(part(of), #field))

struct power_info {
    uint64_t socket_power; uint32_t current_socket_power, average_socket_power;
    uint64_t gfx_voltage, soc_voltage, mem_voltage; uint32_t power_limit; uint64_t reserved[18];
};
struct power_cap { uint64_t power_cap, default_power_cap, dpm_cap, min_power_cap, max_power_cap, reserved[3]; };
struct clk { uint32_t clk, min_clk, max_clk; uint8_t clk_locked, clk_deep_sleep; uint32_t reserved[4]; };
struct usage { uint32_t gfx_activity, umc_activity, mm_activity, reserved[13]; };
struct vram_usage { uint32_t vram_total, vram_used, reserved[2]; };
struct errors { uint64_t correctable_count, uncorrectable_count, deferred_count, reserved[5]; };
struct kfd { uint64_t kfd_id; uint32_t node_id, current_partition_id, reserved[12]; };
struct driver { char driver_version[256], driver_date[256], driver_name[256]; };
struct vbios { char name[256], build_date[256], part_number[256], version[256]; uint64_t reserved[68]; };
struct board {
    char model_number[256], product_serial[256], fru_id[256], product_name[256], manufacturer_name[256];
    uint64_t reserved[64];
};
struct asic {
    char market_name[256]; uint32_t vendor_id; char vendor_name[256]; uint32_t subvendor_id; uint64_t device_id;
    uint32_t rev_id; char asic_serial[256]; uint32_t oam_id, num_of_compute_units; uint64_t target_graphics_version;
    uint32_t subsystem_id, reserved[21];
};
struct process {
    char name[256]; uint32_t pid; uint64_t mem;
    struct { uint64_t gfx, enc; uint32_t reserved[12]; } engine_usage;
    struct { uint64_t gtt_mem, cpu_mem, vram_mem; uint32_t reserved[10]; } memory_usage;
    char container_name[256]; uint32_t cu_occupancy, reserved[11];
};
struct xcp {
    uint32_t gfx_busy_inst[8]; uint16_t jpeg_busy[40], vcn_busy[4]; uint64_t gfx_busy_acc[8],
    gfx_below_host_limit_acc[8], gfx_below_host_limit_ppt_acc[8], gfx_below_host_limit_thm_acc[8],
    gfx_low_utilization_acc[8], gfx_below_host_limit_total_acc[8];
};
struct metrics {
    struct { uint16_t structure_size; uint8_t format_revision, content_revision; } common_header;
    uint16_t temperature_edge, temperature_hotspot, temperature_mem, temperature_vrgfx, temperature_vrsoc;
    uint16_t temperature_vrmem, average_gfx_activity, average_umc_activity, average_mm_activity;
    uint16_t average_socket_power;
    uint64_t energy_accumulator, system_clock_counter;
    uint16_t average_gfxclk_frequency, average_socclk_frequency, average_uclk_frequency, average_vclk0_frequency;
    uint16_t average_dclk0_frequency, average_vclk1_frequency, average_dclk1_frequency, current_gfxclk;
    uint16_t current_socclk, current_uclk, current_vclk0, current_dclk0, current_vclk1, current_dclk1;
    uint32_t throttle_status;
    uint16_t current_fan_speed, pcie_link_width, pcie_link_speed;
    uint32_t gfx_activity_acc, mem_activity_acc;
    uint16_t temperature_hbm[4];
    uint64_t firmware_timestamp;
    uint16_t voltage_soc, voltage_gfx, voltage_mem;
    uint64_t indep_throttle_status;
    uint16_t current_socket_power, vcn_activity[4];
    uint32_t gfxclk_lock_status;
    uint16_t xgmi_link_width, xgmi_link_speed;
    uint64_t pcie_bandwidth_acc, pcie_bandwidth_inst, pcie_l0_to_recov_count_acc, pcie_replay_count_acc;
    uint64_t pcie_replay_rover_count_acc, xgmi_read_data_acc[8], xgmi_write_data_acc[8];
    uint16_t current_gfxclks[8], current_socclks[4], current_vclk0s[4], current_dclk0s[4], jpeg_activity[32];
    uint32_t pcie_nak_sent_count_acc, pcie_nak_rcvd_count_acc;
    uint64_t accumulation_counter, prochot_residency_acc, ppt_residency_acc, socket_thm_residency_acc;
    uint64_t vr_thm_residency_acc, hbm_thm_residency_acc;
    uint16_t num_partition;
    struct xcp xcp_stats[8];
    uint32_t pcie_lc_perf_other_end_recovery;
    uint64_t vram_max_bandwidth;
    uint16_t xgmi_link_status[8];
};

/* ---------------------------------------------------------------- which GPUs there are */

EXPORTED int amdsmi_init(uint64_t flags) { (void)flags; return called("library", __func__); }
EXPORTED int amdsmi_shut_down(void) { return called("library", __func__); }

EXPORTED int amdsmi_get_socket_handles(uint32_t *count, handle *out)
{
    *count = (uint32_t)number_of("library", "sockets", 0);
    for (uint32_t i = 0; out && i < *count; i++) out[i] = (handle)(uintptr_t)(i + 1);
    return called("library", __func__);
}

EXPORTED int amdsmi_get_processor_handles(handle socket, uint32_t *count, handle *out)
{
    uintptr_t first = 64 * ((uintptr_t)socket - 1) + 1;
    *count = (uint32_t)number_of(part((handle)first), "processors", 1);
    for (uint32_t i = 0; out && i < *count; i++) out[i] = (handle)(first + i);
    return 0;
}

FUNCTION(amdsmi_get_gpu_device_uuid, uint32_t *length, char *out)
{
    BEGIN;
    snprintf(out, *length, "%s", text_of(part(of), "uuid"));
    return 0;
}

FUNCTION(amdsmi_get_gpu_device_bdf, uint64_t *out)
{
    BEGIN;
    *out = number_of(part(of), "bdf", 0);
    return 0;
}

FUNCTION(amdsmi_get_gpu_kfd_info, struct kfd *out)
{
    BEGIN;
    NUMBER(current_partition_id, UINT32_MAX);
    return 0;
}

FUNCTION(amdsmi_get_gpu_compute_partition, char *out, uint32_t length)
{
    BEGIN;
    snprintf(out, length, "%s", text_of(part(of), "compute_partition"));
    return 0;
}

FUNCTION(amdsmi_get_gpu_asic_info, struct asic *out)
{
    BEGIN;
    TEXT(market_name); TEXT(asic_serial);
    return 0;
}

FUNCTION(amdsmi_get_gpu_board_info, struct board *out)
{
    BEGIN;
    TEXT(product_name);
    return 0;
}

FUNCTION(amdsmi_get_gpu_driver_info, struct driver *out)
{
    BEGIN;
    TEXT(driver_version);
    return 0;
}

FUNCTION(amdsmi_get_gpu_vbios_info, struct vbios *out)
{
    BEGIN;
    TEXT(version);
    return 0;
}

/* ---------------------------------------------------------------- values */

FUNCTION(amdsmi_get_gpu_activity, struct usage *out)
{
    BEGIN;
    NUMBER(gfx_activity, 0xFFFF); NUMBER(umc_activity, 0xFFFF); NUMBER(mm_activity, 0xFFFF);
    return 0;
}

FUNCTION(amdsmi_get_gpu_memory_total, int kind, uint64_t *out)
{
    BEGIN;
    *out = kind ? 0 : number_of(part(of), "memory_total", 0);
    return 0;
}

FUNCTION(amdsmi_get_gpu_memory_usage, int kind, uint64_t *out)
{
    BEGIN;
    *out = kind ? 0 : number_of(part(of), "memory_usage", 0);
    return 0;
}

FUNCTION(amdsmi_get_gpu_vram_usage, struct vram_usage *out)
{
    BEGIN;
    NUMBER(vram_total, 0); NUMBER(vram_used, 0);
    return 0;
}

FUNCTION(amdsmi_get_energy_count, uint64_t *count, float *resolution, uint64_t *timestamp)
{
    BEGIN;
    *count = number_of(part(of), "energy_accumulator", 0);
    *resolution = (float)real_of(part(of), "counter_resolution", 0);
    *timestamp = (uint64_t)(now_s * 1e9);
    return 0;
}

FUNCTION(amdsmi_get_power_info, struct power_info *out)
{
    BEGIN;
    NUMBER(socket_power, 0xFFFF); NUMBER(current_socket_power, 0xFFFF); NUMBER(average_socket_power, 0xFFFF);
    return 0;
}

FUNCTION(amdsmi_get_power_cap_info, uint32_t sensor, struct power_cap *out)
{
    (void)sensor;
    BEGIN;
    NUMBER(power_cap, 0); NUMBER(default_power_cap, 0); NUMBER(min_power_cap, 0); NUMBER(max_power_cap, 0);
    return 0;
}

FUNCTION(amdsmi_get_temp_metric, uint32_t sensor, uint32_t metric, int64_t *out)
{
    char name[64];
    BEGIN;
    snprintf(name, sizeof name, "temperature.%u.%u", sensor, metric);
    if (!look_up(joined(part(of), name))) return NOT_SUPPORTED;
    *out = (int64_t)number_of(part(of), name, 0);
    return 0;
}

FUNCTION(amdsmi_get_clock_info, uint32_t kind, struct clk *out)
{
    char name[64];
    BEGIN;
    snprintf(name, sizeof name, "clock.%u", kind);
    out->clk = (uint32_t)number_of(part(of), name, UINT32_MAX);
    return 0;
}

FUNCTION(amdsmi_get_gpu_total_ecc_count, struct errors *out)
{
    BEGIN;
    NUMBER(correctable_count, 0); NUMBER(uncorrectable_count, 0); NUMBER(deferred_count, 0);
    return 0;
}

FUNCTION(amdsmi_get_gpu_process_list, uint32_t *count, struct process *out)
{
    BEGIN;
    *count = (uint32_t)number_of(part(of), "processes", 0);
    for (uint32_t i = 0; i < *count; i++) {
        char name[32];
        snprintf(name, sizeof name, "process%u", i);
        memset(&out[i], 0, sizeof out[i]);
        out[i].pid = (uint32_t)number_of(part(of), joined(name, "pid"), 0);
        out[i].memory_usage.vram_mem = number_of(part(of), joined(name, "vram_mem"), 0);
    }
    return 0;
}

FUNCTION(amdsmi_get_gpu_metrics_info, struct metrics *out)
{
    BEGIN;
    memset(out, 0xFF, sizeof *out);
    NUMBER(accumulation_counter, UINT64_MAX); NUMBER(prochot_residency_acc, UINT64_MAX);
    NUMBER(ppt_residency_acc, UINT64_MAX); NUMBER(socket_thm_residency_acc, UINT64_MAX);
    for (int i = 0; i < 8; i++) {
        char name[64];
        snprintf(name, sizeof name, "xgmi_read_data_acc.%d", i);
        out->xgmi_read_data_acc[i] = number_of(part(of), name, UINT64_MAX);
        snprintf(name, sizeof name, "xgmi_write_data_acc.%d", i);
        out->xgmi_write_data_acc[i] = number_of(part(of), name, UINT64_MAX);
        for (int die = 0; die < 8; die++) {
            snprintf(name, sizeof name, "gfx_busy_inst.%d.%d", i, die);
            out->xcp_stats[i].gfx_busy_inst[die] = (uint32_t)number_of(part(of), name, UINT32_MAX);
        }
    }
    return 0;
}

/* ---------------------------------------------------------------- how large our structures are */

#define SIZE(theirs, own) { #theirs, sizeof(struct own) }
static const struct { const char *name; size_t bytes; } sizes[] = {
    SIZE(amdsmi_power_info_t, power_info), SIZE(amdsmi_power_cap_info_t, power_cap), SIZE(amdsmi_clk_info_t, clk),
    SIZE(amdsmi_engine_usage_t, usage), SIZE(amdsmi_vram_usage_t, vram_usage), SIZE(amdsmi_error_count_t, errors),
    SIZE(amdsmi_kfd_info_t, kfd), SIZE(amdsmi_driver_info_t, driver), SIZE(amdsmi_vbios_info_t, vbios),
    SIZE(amdsmi_board_info_t, board), SIZE(amdsmi_asic_info_t, asic), SIZE(amdsmi_proc_info_t, process),
    SIZE(amdsmi_gpu_xcp_metrics_t, xcp), SIZE(amdsmi_gpu_metrics_t, metrics),
};

#define PLACE(theirs, own, field) { #theirs "." #field, offsetof(struct own, field) }
static const struct { const char *name; size_t bytes; } places[] = {
    PLACE(amdsmi_power_info_t, power_info, average_socket_power), PLACE(amdsmi_asic_info_t, asic, asic_serial),
    PLACE(amdsmi_proc_info_t, process, memory_usage), PLACE(amdsmi_gpu_metrics_t, metrics, xgmi_read_data_acc),
    PLACE(amdsmi_gpu_metrics_t, metrics, accumulation_counter), PLACE(amdsmi_gpu_metrics_t, metrics, xcp_stats),
};

EXPORTED const char *simulated_size(int index, size_t *bytes)
{
    int of_sizes = sizeof sizes / sizeof *sizes, of_places = sizeof places / sizeof *places;
    if (index >= of_sizes + of_places) return NULL;
    *bytes = index < of_sizes ? sizes[index].bytes : places[index - of_sizes].bytes;
    return index < of_sizes ? sizes[index].name : places[index - of_sizes].name;
}
