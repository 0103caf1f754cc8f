// Package redaction is the Collector's processor `redaction`, with contrib's configuration and result at a fraction of
// its cost: it runs an expression on a text only where the text has the letters that every match of it contains.
//
// An option that the feature `redaction` does not use is left to contrib's processor, and so is all that comes with it.
// The same configuration therefore runs in otelcol-contrib too.
package redaction

import (
	"context"
	"reflect"

	"github.com/open-telemetry/opentelemetry-collector-contrib/processor/redactionprocessor"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/processorhelper"
)

// upstream has the configuration, and is what runs where an option is not known here.
var upstream = redactionprocessor.NewFactory()

// mutates says that the data that comes in is changed in place.
var mutates = processorhelper.WithCapabilities(consumer.Capabilities{MutatesData: true})

// NewFactory returns the factory of the processor.
func NewFactory() processor.Factory {
	return processor.NewFactory(
		upstream.Type(),
		upstream.CreateDefaultConfig,
		processor.WithTraces(createTraces, upstream.TracesStability()),
		processor.WithLogs(createLogs, upstream.LogsStability()),
		processor.WithMetrics(createMetrics, upstream.MetricsStability()),
	)
}

func createTraces(
	ctx context.Context, set processor.Settings, given component.Config, next consumer.Traces,
) (processor.Traces, error) {
	config := given.(*redactionprocessor.Config)
	if !known(config) {
		return upstream.CreateTraces(ctx, set, given, next)
	}
	found, err := newRedactor(config)
	if err != nil {
		return nil, err
	}
	return processorhelper.NewTraces(ctx, set, given, next, found.traces, mutates)
}

func createLogs(
	ctx context.Context, set processor.Settings, given component.Config, next consumer.Logs,
) (processor.Logs, error) {
	config := given.(*redactionprocessor.Config)
	if !known(config) {
		return upstream.CreateLogs(ctx, set, given, next)
	}
	found, err := newRedactor(config)
	if err != nil {
		return nil, err
	}
	return processorhelper.NewLogs(ctx, set, given, next, found.logs, mutates)
}

func createMetrics(
	ctx context.Context, set processor.Settings, given component.Config, next consumer.Metrics,
) (processor.Metrics, error) {
	config := given.(*redactionprocessor.Config)
	if !known(config) {
		return upstream.CreateMetrics(ctx, set, given, next)
	}
	found, err := newRedactor(config)
	if err != nil {
		return nil, err
	}
	return processorhelper.NewMetrics(ctx, set, given, next, found.metrics, mutates)
}

// known says whether every option that is set is one of those that are known here.
func known(config *redactionprocessor.Config) bool {
	rest := *config
	rest.AllowAllKeys, rest.RedactAllTypes = false, false
	rest.IgnoredKeys, rest.BlockedKeyPatterns, rest.BlockedValues, rest.AllowedValues = nil, nil, nil, nil
	rest.Summary = ""
	return config.AllowAllKeys && config.RedactAllTypes && config.Summary != "debug" && reflect.ValueOf(rest).IsZero()
}
