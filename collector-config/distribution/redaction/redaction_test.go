package redaction

import (
	"context"
	"fmt"
	"math/rand"
	"os"
	"reflect"
	"regexp"
	"regexp/syntax"
	"strings"
	"testing"

	"github.com/open-telemetry/opentelemetry-collector-contrib/processor/redactionprocessor"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"
	"go.yaml.in/yaml/v3"
)

const (
	feature = "../../generated/features/redaction.yaml"
	corpus  = "../../../tests/collector/redaction/"
)

// configured returns the configuration of one of the feature's processors, as the Collector would read it.
func configured(t testing.TB, name string) *redactionprocessor.Config {
	t.Helper()
	text, err := os.ReadFile(feature)
	if err != nil {
		t.Fatal(err)
	}
	expanded := regexp.MustCompile(`\$\{env:\w+:-([^}]*)\}`).ReplaceAllString(string(text), "$1")
	var tree struct{ Processors map[string]map[string]any }
	if err := yaml.Unmarshal([]byte(strings.ReplaceAll(expanded, "$$", "$")), &tree); err != nil {
		t.Fatal(err)
	}
	config := upstream.CreateDefaultConfig().(*redactionprocessor.Config)
	if err := confmap.NewFromStringMap(tree.Processors[name]).Unmarshal(config); err != nil {
		t.Fatal(err)
	}
	return config
}

// texts of the corpus, and more that chance makes of these.
func texts(t testing.TB, drawn int) []string {
	t.Helper()
	var found []string
	for _, name := range []string{"positives.yaml", "negatives.yaml"} {
		content, err := os.ReadFile(corpus + name)
		if err != nil {
			t.Fatal(err)
		}
		var tree yaml.Node
		if err := yaml.Unmarshal(content, &tree); err != nil {
			t.Fatal(err)
		}
		found = append(found, scalars(&tree)...)
	}
	if len(found) < 1000 {
		t.Fatalf("%d texts only", len(found))
	}
	corpus, random := len(found), rand.New(rand.NewSource(20261130))
	between := []string{"", " ", "\n", "=", "\"", "\u017f", "\u212a", "é", "\xff", "\x00", "7", "\\"}
	part := func() string {
		text := found[random.Intn(corpus)]
		if random.Intn(2) == 0 {
			return text
		}
		from := random.Intn(len(text) + 1)
		return text[from : from+random.Intn(len(text)-from+1)]
	}
	for range drawn {
		text := part() + between[random.Intn(len(between))] + part()
		switch random.Intn(4) {
		case 0:
			text = strings.ToUpper(text)
		case 1:
			text = strings.NewReplacer("s", "\u017f", "k", "\u212a").Replace(text)
		}
		found = append(found, text)
	}
	return found
}

func scalars(node *yaml.Node) []string {
	if node.Kind == yaml.ScalarNode {
		return []string{strings.NewReplacer("¦", "", "«", "", "»", "", "‹", "", "›", "").Replace(node.Value)}
	}
	var found []string
	for _, below := range node.Content {
		found = append(found, scalars(below)...)
	}
	return found
}

func settings() processor.Settings {
	return processor.Settings{
		ID: component.NewID(upstream.Type()),
		TelemetrySettings: component.TelemetrySettings{
			Logger:         zap.NewNop(),
			TracerProvider: tracenoop.NewTracerProvider(),
			MeterProvider:  metricnoop.NewMeterProvider(),
		},
	}
}

// out returns the attributes of each span, without what contrib's processor counts and this one does not.
func out(t testing.TB, factory processor.Factory, config component.Config, in ptrace.Traces) []map[string]any {
	t.Helper()
	var found []map[string]any
	sink, err := consumer.NewTraces(func(_ context.Context, traces ptrace.Traces) error {
		for _, span := range traces.ResourceSpans().At(0).ScopeSpans().At(0).Spans().All() {
			attributes := span.Attributes().AsRaw()
			delete(attributes, "redaction.allowed.count")
			delete(attributes, "redaction.ignored.count")
			found = append(found, attributes)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	made, err := factory.CreateTraces(context.Background(), settings(), config, sink)
	if err != nil {
		t.Fatal(err)
	}
	if err := made.ConsumeTraces(context.Background(), in); err != nil {
		t.Fatal(err)
	}
	return found
}

func spans(texts []string, lay func(pcommon.Map, string)) ptrace.Traces {
	traces := ptrace.NewTraces()
	all := traces.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans()
	for _, text := range texts {
		lay(all.AppendEmpty().Attributes(), text)
	}
	return traces
}

func TestWhatLeavesIsWhatLeavesContribsProcessor(t *testing.T) {
	lays := map[string]func(pcommon.Map, string){
		"value":  func(attributes pcommon.Map, text string) { attributes.PutStr("text", text) },
		"key":    func(attributes pcommon.Map, text string) { attributes.PutStr(text, "word") },
		"nested": func(attributes pcommon.Map, text string) { attributes.PutEmptySlice("text").AppendEmpty().SetStr(text) },
	}
	all := texts(t, 10_000)
	for _, name := range []string{"redaction/keys", "redaction/values"} {
		config := configured(t, name)
		if !known(config) {
			t.Fatalf("%s is left to contrib's processor", name)
		}
		for place, lay := range lays {
			t.Run(name+" "+place, func(t *testing.T) {
				expected := out(t, upstream, config, spans(all, lay))
				found := out(t, NewFactory(), config, spans(all, lay))
				masked := 0
				for at := range expected {
					if !reflect.DeepEqual(found[at], expected[at]) {
						t.Errorf("%q: %v, expected %v", all[at], found[at], expected[at])
					}
					if expected[at][count] != nil {
						masked++
					}
				}
				t.Logf("%d of %d masked", masked, len(all))
			})
		}
	}
}

func TestBodiesAndPointsLeaveAsTheyLeaveContribsProcessor(t *testing.T) {
	config := configured(t, "redaction/values")
	config.BlockedKeyPatterns = configured(t, "redaction/keys").BlockedKeyPatterns
	config.AllowedValues = nil
	ctx := context.Background()
	made := func(factory processor.Factory) (string, string) {
		logs, metrics := plog.NewLogs(), pmetric.NewMetrics()
		records := logs.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords()
		records.AppendEmpty().Body().SetStr("mail to jane@example.org")
		records.AppendEmpty().Body().SetInt(4111111111111111)
		below := records.AppendEmpty().Body().SetEmptyMap()
		below.PutStr("password", "x")
		below.PutStr("k8s.pod.name", "jane@example.org")
		deep := below.PutEmptySlice("list").AppendEmpty().SetEmptyMap()
		deep.PutStr("input", "x")
		deep.PutStr("to", "jane@example.org")
		all := metrics.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics()
		for _, attributes := range []pcommon.Map{
			all.AppendEmpty().SetEmptyGauge().DataPoints().AppendEmpty().Attributes(),
			all.AppendEmpty().SetEmptySum().DataPoints().AppendEmpty().Attributes(),
			all.AppendEmpty().SetEmptyHistogram().DataPoints().AppendEmpty().Attributes(),
			all.AppendEmpty().SetEmptyExponentialHistogram().DataPoints().AppendEmpty().Attributes(),
			all.AppendEmpty().SetEmptySummary().DataPoints().AppendEmpty().Attributes(),
		} {
			attributes.PutStr("user", "jane@example.org")
		}
		toLogs, _ := consumer.NewLogs(func(context.Context, plog.Logs) error { return nil })
		toMetrics, _ := consumer.NewMetrics(func(context.Context, pmetric.Metrics) error { return nil })
		forLogs, err := factory.CreateLogs(ctx, settings(), config, toLogs)
		if err != nil {
			t.Fatal(err)
		}
		forMetrics, err := factory.CreateMetrics(ctx, settings(), config, toMetrics)
		if err != nil {
			t.Fatal(err)
		}
		if err := forLogs.ConsumeLogs(ctx, logs); err != nil {
			t.Fatal(err)
		}
		if err := forMetrics.ConsumeMetrics(ctx, metrics); err != nil {
			t.Fatal(err)
		}
		for _, record := range records.All() {
			record.Attributes().Remove("redaction.body.ignored.count")
		}
		asLogs, _ := (&plog.JSONMarshaler{}).MarshalLogs(logs)
		asMetrics, _ := (&pmetric.JSONMarshaler{}).MarshalMetrics(metrics)
		return string(asLogs), string(asMetrics)
	}
	expectedLogs, expectedMetrics := made(upstream)
	logs, metrics := made(NewFactory())
	if logs != expectedLogs || metrics != expectedMetrics {
		t.Errorf("%s\n%s\nexpected\n%s\n%s", logs, metrics, expectedLogs, expectedMetrics)
	}
	if strings.Count(metrics, "jane") != 0 || strings.Count(logs, "jane") != 1 {
		t.Errorf("not masked: %s\n%s", logs, metrics)
	}
}

func TestTheValueOfAKeyIsHiddenWhole(t *testing.T) {
	config := configured(t, "redaction/keys")
	found := out(t, NewFactory(), config, spans([]string{"one\ntwo"}, func(attributes pcommon.Map, text string) {
		attributes.PutStr("password", text)
	}))
	if found[0]["password"] != mask {
		t.Errorf("%v", found)
	}
}

func TestKeysThatAreNotRememberedAreDecidedAllTheSame(t *testing.T) {
	config := configured(t, "redaction/keys")
	var keys []string
	for number := range 3 * mostKeys {
		keys = append(keys, fmt.Sprintf("key.%d.password", number), fmt.Sprintf("key.%d.word", number))
	}
	keys = append(keys, strings.Repeat("x", 2*longestKey)+".password")
	found := out(t, NewFactory(), config, spans(keys, func(attributes pcommon.Map, key string) { attributes.PutStr(key, "x") }))
	for at, key := range keys {
		expected := "x"
		if strings.HasSuffix(key, "password") {
			expected = mask
		}
		if found[at][key] != expected {
			t.Errorf("%s: %v", key, found[at])
		}
	}
}

func TestOtherOptionsAreLeftToContribsProcessor(t *testing.T) {
	config := configured(t, "redaction/values")
	config.HashFunction = redactionprocessor.SHA1
	found := out(t, NewFactory(), config, spans([]string{"jane@example.org"}, func(attributes pcommon.Map, text string) {
		attributes.PutStr("user", text)
	}))
	if value := found[0]["user"].(string); len(value) != 40 {
		t.Errorf("%v", found)
	}
	config.HashFunction, config.BlockedValues = "", []string{"("}
	if _, err := newRedactor(config); err == nil {
		t.Error("an expression that cannot be read is taken")
	}
}

func TestLiteralsOfExpressions(t *testing.T) {
	for pattern, expected := range map[string][]string{
		"abc":                     {"abc"},
		"(?i:Key)s?":              {"key", "keys"},
		"x(?:a|b)[0-9]{2}y":       {"xa00y", "xb00y"},
		"[A-Za-z]+@[A-Za-z]+[.]x": {"@"},
		"[A-Z]{3}":                nil,
		"(?:ab)?":                 nil,
		"ab|[^c]":                 nil,
		"^(?:ab+|cd)$":            {"a", "cd"},
	} {
		tree, err := syntax.Parse(pattern, syntax.Perl)
		if err != nil {
			t.Fatal(err)
		}
		if found := literals(tree); !reflect.DeepEqual(found, expected) {
			t.Errorf("%s: %q, expected %q", pattern, found, expected)
		}
	}
}

func TestAnExpressionThatMatchesNothingIsLeftOut(t *testing.T) {
	for pattern, none := range map[string]bool{`\x00\A`: true, `\Ax`: false, `(?:\Ax|y)`: false, `x*\A`: false} {
		made, err := compile([]string{pattern})
		if err != nil || made.none() != none {
			t.Errorf("%s: %v, %v", pattern, made, err)
		}
	}
	if made, err := newRedactor(configured(t, "redaction/keys")); err != nil || !made.values.none() {
		t.Errorf("the expression that stands for none is run: %v", err)
	}
}

func TestHowMuchEveryMatchHas(t *testing.T) {
	for pattern, expected := range map[string][2]int{
		`^a[0-9]{3,4}\b`:      {4, 3},
		`(?:\d\dx|[0-9a-f]+)`: {1, 0},
		`(?:é|ab)?.[^c]*1`:    {2, 1},
	} {
		tree, err := syntax.Parse(pattern, syntax.Perl)
		if err != nil {
			t.Fatal(err)
		}
		if letters, digits := least(tree); letters != expected[0] || digits != expected[1] {
			t.Errorf("%s: %d, %d", pattern, letters, digits)
		}
	}
}

func BenchmarkValues(b *testing.B) {
	config := configured(b, "redaction/values")
	made, err := newRedactor(config)
	if err != nil {
		b.Fatal(err)
	}
	sentence := "The quick brown fox jumps over 13 lazy dogs near the river, at 10:30, for $4.50 each (or so they say). "
	for name, text := range map[string]string{
		"id":    "chatcmpl-3f0e6c1b2a9d4f7c8e5b6a1d2c3f4e5b",
		"words": "OpenAI/Python 3.54.0",
		"text":  strings.Repeat(sentence, 80),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				made.values.mask(text, made.allowed)
			}
		})
	}
}
