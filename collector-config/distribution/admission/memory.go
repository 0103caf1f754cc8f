package admission

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
)

// usableMemory is GOMEMLIMIT, else four fifths of what the container or the machine has, else of 512 MiB.
func usableMemory(root string) int64 {
	if limit := debug.SetMemoryLimit(-1); limit != math.MaxInt64 {
		return limit
	}
	least := int64(math.MaxInt64)
	for name, unit := range map[string]int64{
		"sys/fs/cgroup/memory.max":                   1,
		"sys/fs/cgroup/memory/memory.limit_in_bytes": 1,
		"proc/meminfo":                               1024,
	} {
		text, _ := os.ReadFile(filepath.Join(root, name))
		text, _, _ = bytes.Cut(bytes.TrimPrefix(text, []byte("MemTotal:")), []byte("kB"))
		if number, err := strconv.ParseInt(string(bytes.TrimSpace(text)), 10, 64); err == nil && number > 0 {
			least = min(least, number*unit)
		}
	}
	if least == math.MaxInt64 {
		least = 512 * mib
	}
	return least / 5 * 4
}
