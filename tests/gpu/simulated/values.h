/*
 * What the simulated vendor libraries answer from: a table of values by name, filled by the test through ctypes.
 * A number grows with the simulated time, which stands where the test puts it. Everything here is simulated.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_VALUES 2048
#define EXPORTED __attribute__((visibility("default")))

struct value { char name[96]; uint64_t base; double per_s; double real; char text[96]; int code; int calls; };

static struct value values[MOST_VALUES];
static int count_of_values;
static double now_s;

static struct value *look_up(const char *name)
{
    for (int i = 0; i < count_of_values; i++)
        if (!strcmp(values[i].name, name)) return &values[i];
    return NULL;
}

static struct value *made(const char *name)
{
    struct value *known = look_up(name);
    if (known || count_of_values == MOST_VALUES) return known;
    known = &values[count_of_values++];
    memset(known, 0, sizeof *known);
    snprintf(known->name, sizeof known->name, "%s", name);
    return known;
}

EXPORTED void simulated_number(const char *name, uint64_t base, double per_s)
{
    struct value *it = made(name);
    it->base = base; it->per_s = per_s;
}

EXPORTED void simulated_real(const char *name, double real) { made(name)->real = real; }
EXPORTED void simulated_text(const char *name, const char *text) { snprintf(made(name)->text, 96, "%s", text); }
EXPORTED void simulated_code(const char *name, int code) { made(name)->code = code; }
EXPORTED int simulated_calls(const char *name) { struct value *it = look_up(name); return it ? it->calls : 0; }
EXPORTED void simulated_time(double seconds) { now_s = seconds; }
EXPORTED void simulated_clear(void) { count_of_values = 0; now_s = 0; }

static const char *joined(const char *part, const char *name)
{
    static __thread char name_of[8][96];
    static __thread int next;
    char *to = name_of[next++ % 8];
    snprintf(to, 96, "%s.%s", part, name);
    return to;
}

static uint64_t number_of(const char *part, const char *name, uint64_t otherwise)
{
    struct value *it = look_up(joined(part, name));
    return it ? it->base + (int64_t)(it->per_s * now_s) : otherwise;
}

static double real_of(const char *part, const char *name, double otherwise)
{
    struct value *it = look_up(joined(part, name));
    return it ? it->real : otherwise;
}

static const char *text_of(const char *part, const char *name)
{
    struct value *it = look_up(joined(part, name));
    return it ? it->text : "";
}

/* Count a call, and say how it is to end. */
static int called(const char *part, const char *function)
{
    struct value *it = made(joined(part, function));
    it->calls++;
    return it->code;
}
