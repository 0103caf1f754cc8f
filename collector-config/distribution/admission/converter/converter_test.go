package converter

import (
	"reflect"
	"testing"

	"go.opentelemetry.io/collector/confmap"
)

func convert(t *testing.T, given tree) (tree, error) {
	conf := confmap.NewFromStringMap(given)
	err := NewFactory().Create(confmap.ConverterSettings{}).Convert(t.Context(), conf)
	return conf.ToStringMap(), err
}

func TestEveryOTLPReceiverIsBounded(t *testing.T) {
	t.Setenv(Variable, " 7000000 ")
	given := tree{
		"extensions": tree{"health_check": nil},
		"receivers": tree{
			"otlp":       tree{"protocols": tree{"grpc": tree{"endpoint": "a:1", "max_recv_msg_size_mib": 2}, "http": nil}},
			"otlp/other": tree{"protocols": tree{"http": tree{"middlewares": []any{tree{"id": "own"}}}}},
			"prometheus": tree{"config": "x"},
		},
		"service": tree{"extensions": []any{"health_check"}, "pipelines": tree{}},
	}
	added, own := tree{"id": "admission"}, tree{"id": "own"}
	wanted := tree{
		"extensions": tree{"health_check": nil, "admission": tree{"grpc_bytes": 2 << 20, "decoded_bytes": int64(7_000_000)}},
		"receivers": tree{
			"otlp": tree{"protocols": tree{
				"grpc": tree{"endpoint": "a:1", "max_recv_msg_size_mib": 2, "middlewares": []any{added}},
				"http": tree{"middlewares": []any{added}},
			}},
			"otlp/other": tree{"protocols": tree{"http": tree{"middlewares": []any{added, own}}}},
			"prometheus": tree{"config": "x"},
		},
		"service": tree{"extensions": []any{"admission", "health_check"}, "pipelines": tree{}},
	}
	got, err := convert(t, given)
	if err != nil || !reflect.DeepEqual(got, wanted) {
		t.Errorf("%v\n%v\nwanted\n%v", err, got, wanted)
	}
}

func TestWhatHasNoOTLPOrItsOwnExtensionStays(t *testing.T) {
	for _, given := range []tree{
		{"receivers": tree{"k8s_cluster": tree{}}, "service": tree{"extensions": []any{"health_check"}}},
		{"extensions": tree{"admission/own": tree{"decoded_bytes": 2}}, "receivers": tree{"otlp": tree{"protocols": tree{"grpc": tree{}}}}},
		{},
	} {
		before := confmap.NewFromStringMap(given).ToStringMap()
		got, err := convert(t, given)
		if err != nil || !reflect.DeepEqual(got, before) {
			t.Errorf("%v\n%v\nwanted\n%v", err, got, before)
		}
	}
}

func TestTheSizeOfAGRPCRequest(t *testing.T) {
	for given, wanted := range map[any]int{nil: usualMiB, 1: 1, "32": 32, "text": usualMiB, -1: usualMiB} {
		if got := mebibytes(given); got != wanted {
			t.Error(given, got)
		}
	}
}

func TestANumberThatIsNoneIsRefused(t *testing.T) {
	for _, given := range []string{"many", "-1", "1.5"} {
		t.Setenv(Variable, given)
		if _, err := convert(t, tree{"receivers": tree{"otlp": tree{"protocols": tree{"grpc": nil}}}}); err == nil {
			t.Error(given)
		}
	}
}
