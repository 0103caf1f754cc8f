package redaction

import (
	"context"
	"maps"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/open-telemetry/opentelemetry-collector-contrib/processor/redactionprocessor"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

const (
	mask      = "****"
	count     = "redaction.masked.count"
	bodyCount = "redaction.body.masked.count"

	// Keys are the sender's choice: of so many, and of none that is longer, it is remembered what is done with them.
	mostKeys   = 1024
	longestKey = 128
)

// What is done with the value of a key.
type action int

const (
	search action = iota
	ignore
	hide
)

// redactor masks the values of blocked keys, and what the blocked expressions match in the values of others.
type redactor struct {
	keys    *expressions
	values  *expressions
	allowed *expressions
	summary bool
	// What is done with a key; replaced as a whole, so that reading takes no lock.
	decided atomic.Pointer[map[string]action]
	most    int
	adding  sync.Mutex
}

func newRedactor(config *redactionprocessor.Config) (*redactor, error) {
	made := &redactor{summary: config.Summary == "info", most: mostKeys + len(config.IgnoredKeys)}
	decided := make(map[string]action, len(config.IgnoredKeys))
	for _, key := range config.IgnoredKeys {
		decided[key] = ignore
	}
	made.decided.Store(&decided)
	var err error
	if made.keys, err = compile(config.BlockedKeyPatterns); err != nil {
		return nil, err
	}
	if made.values, err = compile(config.BlockedValues); err != nil {
		return nil, err
	}
	made.allowed, err = compile(config.AllowedValues)
	return made, err
}

func (r *redactor) traces(_ context.Context, traces ptrace.Traces) (ptrace.Traces, error) {
	for _, resource := range traces.ResourceSpans().All() {
		r.attributes(resource.Resource().Attributes())
		for _, scope := range resource.ScopeSpans().All() {
			r.attributes(scope.Scope().Attributes())
			for _, span := range scope.Spans().All() {
				r.attributes(span.Attributes())
				for _, event := range span.Events().All() {
					r.attributes(event.Attributes())
				}
			}
		}
	}
	return traces, nil
}

func (r *redactor) logs(_ context.Context, logs plog.Logs) (plog.Logs, error) {
	for _, resource := range logs.ResourceLogs().All() {
		r.attributes(resource.Resource().Attributes())
		for _, scope := range resource.ScopeLogs().All() {
			r.attributes(scope.Scope().Attributes())
			for _, log := range scope.LogRecords().All() {
				r.attributes(log.Attributes())
				r.note(log.Attributes(), bodyCount, r.inside(log.Body()))
			}
		}
	}
	return logs, nil
}

func (r *redactor) metrics(_ context.Context, metrics pmetric.Metrics) (pmetric.Metrics, error) {
	for _, resource := range metrics.ResourceMetrics().All() {
		r.attributes(resource.Resource().Attributes())
		for _, scope := range resource.ScopeMetrics().All() {
			r.attributes(scope.Scope().Attributes())
			for _, metric := range scope.Metrics().All() {
				r.points(metric)
			}
		}
	}
	return metrics, nil
}

func (r *redactor) points(metric pmetric.Metric) {
	switch metric.Type() {
	case pmetric.MetricTypeGauge:
		for _, point := range metric.Gauge().DataPoints().All() {
			r.attributes(point.Attributes())
		}
	case pmetric.MetricTypeSum:
		for _, point := range metric.Sum().DataPoints().All() {
			r.attributes(point.Attributes())
		}
	case pmetric.MetricTypeHistogram:
		for _, point := range metric.Histogram().DataPoints().All() {
			r.attributes(point.Attributes())
		}
	case pmetric.MetricTypeExponentialHistogram:
		for _, point := range metric.ExponentialHistogram().DataPoints().All() {
			r.attributes(point.Attributes())
		}
	case pmetric.MetricTypeSummary:
		for _, point := range metric.Summary().DataPoints().All() {
			r.attributes(point.Attributes())
		}
	}
}

// attributes masks in the values of a map, of which nested ones count as their JSON text.
func (r *redactor) attributes(attributes pcommon.Map) {
	masked := 0
	for key, value := range attributes.All() {
		switch r.action(key) {
		case search:
			masked += r.text(value)
		case hide:
			if !r.allowed.match(value.AsString()) {
				value.SetStr(mask)
				masked++
			}
		}
	}
	r.note(attributes, count, masked)
}

// inside masks in a value and all that is in it, where it stays what it is.
func (r *redactor) inside(value pcommon.Value) int {
	masked := 0
	switch value.Type() {
	case pcommon.ValueTypeMap:
		for key, below := range value.Map().All() {
			switch r.action(key) {
			case search:
				masked += r.inside(below)
			case hide:
				below.SetStr(mask)
				masked++
			}
		}
	case pcommon.ValueTypeSlice:
		for _, below := range value.Slice().All() {
			masked += r.inside(below)
		}
	default:
		masked += r.text(value)
	}
	return masked
}

func (r *redactor) text(value pcommon.Value) int {
	before := value.AsString()
	after := r.values.mask(before, r.allowed)
	if after == before {
		return 0
	}
	value.SetStr(after)
	return 1
}

// note writes how many values were masked, where the summary is asked for.
func (r *redactor) note(attributes pcommon.Map, key string, masked int) {
	if masked == 0 || !r.summary {
		return
	}
	if before, found := attributes.Get(key); found {
		masked += int(before.Int())
	}
	attributes.PutInt(key, int64(masked))
}

func (r *redactor) action(key string) action {
	decided := *r.decided.Load()
	if found, is := decided[key]; is {
		return found
	}
	found := search
	if r.keys.match(key) {
		found = hide
	}
	if len(key) <= longestKey && len(decided) < r.most {
		r.adding.Lock()
		defer r.adding.Unlock()
		more := maps.Clone(*r.decided.Load())
		more[strings.Clone(key)] = found
		r.decided.Store(&more)
	}
	return found
}
