// Package converter puts the extension admission before every OTLP receiver of a configuration, so that a configuration needs
// to say nothing of it, and runs in other distributions too. One that has an extension admission is left as it is.
package converter

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"go.opentelemetry.io/collector/confmap"
)

const (
	extension = "admission"
	// Variable is how many bytes of requests are decoded at once; 0, like nothing, is as many as fit the memory.
	Variable = "AI_OTEL_DECODED_BYTES"
	// What configgrpc takes where a configuration says nothing.
	usualMiB = 4
)

type tree = map[string]any

// NewFactory is called by the Collector.
func NewFactory() confmap.ConverterFactory {
	return confmap.NewConverterFactory(func(confmap.ConverterSettings) confmap.Converter { return converter{} })
}

type converter struct{}

// Convert is called by the Collector after variables have been replaced. Only what changes is merged: all else keeps its form.
func (converter) Convert(_ context.Context, conf *confmap.Conf) error {
	all := conf.ToStringMap()
	extensions := below(all, "extensions")
	for name := range extensions {
		if kind(name) == extension {
			return nil
		}
	}
	receivers, largest := tree{}, 0
	for name, receiver := range below(all, "receivers") {
		if kind(name) != "otlp" {
			continue
		}
		protocols := tree{}
		for protocol, server := range below(receiver, "protocols") {
			there, _ := below(server)["middlewares"].([]any)
			protocols[protocol] = tree{"middlewares": append([]any{tree{"id": extension}}, there...)}
			if protocol == "grpc" {
				largest = max(largest, mebibytes(below(server)["max_recv_msg_size_mib"]))
			}
		}
		receivers[name] = tree{"protocols": protocols}
	}
	if len(receivers) == 0 {
		return nil
	}
	settings := tree{"grpc_bytes": max(largest, 1) << 20}
	if given := strings.TrimSpace(os.Getenv(Variable)); given != "" {
		bytes, err := strconv.ParseInt(given, 10, 64)
		if err != nil || bytes < 0 {
			return fmt.Errorf("%s must be a number of bytes, not %q", Variable, given)
		}
		settings["decoded_bytes"] = bytes
	}
	started, _ := below(all, "service")["extensions"].([]any)
	return conf.Merge(confmap.NewFromStringMap(tree{
		"extensions": tree{extension: settings},
		"receivers":  receivers,
		"service":    tree{"extensions": append([]any{extension}, started...)},
	}))
}

// below is the map at a path; an empty one where there is none.
func below(of any, path ...string) tree {
	found, _ := of.(tree)
	for _, key := range path {
		found, _ = found[key].(tree)
	}
	return found
}

func kind(name string) string {
	before, _, _ := strings.Cut(name, "/")
	return strings.TrimSpace(before)
}

// mebibytes of a setting that may be a number or its text. What is neither is for the receiver to refuse.
func mebibytes(given any) int {
	if number, err := strconv.Atoi(fmt.Sprint(given)); err == nil && number > 0 {
		return number
	}
	return usualMiB
}
