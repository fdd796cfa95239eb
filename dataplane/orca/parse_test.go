package orca

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// report writes a report in protobuf.
func report(double map[protowire.Number]float64, utilisation map[string]float64) []byte {
	var b []byte
	fixed := func(to []byte, n protowire.Number, v float64) []byte {
		return binary.LittleEndian.AppendUint64(protowire.AppendTag(to, n, protowire.Fixed64Type), math.Float64bits(v))
	}
	for n, v := range double {
		b = fixed(b, n, v)
	}
	for name, v := range utilisation {
		entry := fixed(protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), name), 2, v)
		b = protowire.AppendBytes(protowire.AppendTag(b, named, protowire.BytesType), entry)
	}
	return b
}

func base(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// TestReportsAreRead in each form that there is, and what is none is refused whole.
func TestReportsAreRead(t *testing.T) {
	all := Report{Application: 0.5, CPU: 0.25, Named: 0.75, RPS: 100.5, EPS: 2}
	whole := report(map[protowire.Number]float64{cpu: 0.25, memory: 0.1, rpsFraction: 100.5, eps: 2, application: 0.5}, map[string]float64{"gpu": 0.75, "disk": 0.5})
	for value, want := range map[string]Report{
		"TEXT application_utilization=0.5,cpu_utilization=0.25, mem_utilization=0.1 ,rps_fractional=100.5,eps=2,utilization.gpu=0.75,utilization.disk=0.5,named_metrics.x=-7,request_cost.y=1e9": all,
		"TEXT cpu_utilization:0.3": {CPU: 0.3},
		"TEXT ":                    {},
		"TEXT eps=1e-3":            {EPS: 0.001},
		`JSON {"application_utilization":0.5,"cpuUtilization":0.25,"mem_utilization":0.1,"rps_fractional":"100.5","eps":2,"utilization":{"gpu":0.75,"disk":0.5},"namedMetrics":{"x":-7}}`: all,
		`JSON {}`:                                    {},
		`JSON {"rps":"7"}`:                           {RPS: 7},
		`JSON {"rpsFractional":1.5,"rps":7}`:         {RPS: 1.5},
		"BIN " + base(whole):                         all,
		"BIN " + strings.TrimRight(base(whole), "="): all,
		"BIN " + base(protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 5)):  {}, // of a later version
		"BIN " + base(protowire.AppendVarint(protowire.AppendTag(nil, rps, protowire.VarintType), 5)): {RPS: 5},
		"BIN ": {},
	} {
		if got, err := Parse([]byte(value)); err != nil || got != want {
			t.Errorf("%q is read as %+v, %v; want %+v", value, got, err, want)
		}
	}
	if got, err := ParseBinary([]byte(base(whole))); err != nil || got != all {
		t.Errorf("binary is read as %+v, %v", got, err)
	}
	many := strings.Repeat("named_metrics.a=1,", entriesMax+1)
	for value, want := range map[string]error{
		"":                            ErrForm,
		"cpu_utilization=0.3":         ErrForm,
		"text cpu_utilization=0.3":    ErrForm,
		"TEXT":                        ErrForm,
		"TEXT cpu_utilization":        ErrSyntax,
		"TEXT cpu_utilization=":       ErrValue,
		"TEXT cpu_utilization=-0.1":   ErrValue,
		"TEXT cpu_utilization=NaN":    ErrValue,
		"TEXT cpu_utilization=Inf":    ErrValue,
		"TEXT cpu_utilization=1e999":  ErrValue,
		"TEXT cpu_utilization=0x1p-2": ErrValue,
		"TEXT cpu_utilization=101":    ErrValue,
		"TEXT rps_fractional=1e10":    ErrValue,
		"TEXT utilization.gpu=-1":     ErrValue,
		"TEXT cpu=0.3":                ErrName,
		"TEXT utilization=0.3":        ErrName,
		"TEXT cpu_utilization.x=0.3":  ErrName,
		"TEXT utilization.=0.3":       ErrName,
		"TEXT eps=1,eps=1":            ErrName,
		"TEXT ,":                      ErrSyntax,
		"TEXT " + many:                ErrSize,
		"TEXT utilization." + strings.Repeat("x", nameMax+1) + "=1": ErrSize,
		"TEXT " + strings.Repeat(" ", sizeMax):                      ErrSize,
		`JSON `:                                                     ErrSyntax,
		`JSON []`:                                                   ErrSyntax,
		`JSON {"eps":1`:                                             ErrSyntax,
		`JSON {"eps":1} {}`:                                         ErrSyntax,
		`JSON {"eps":1,"eps":1}`:                                    ErrName,
		`JSON {"eps":1,"EPS":1}`:                                    ErrName,
		`JSON {"load":1}`:                                           ErrName,
		`JSON {"eps":true}`:                                         ErrValue,
		`JSON {"eps":null}`:                                         ErrValue,
		`JSON {"eps":{}}`:                                           ErrValue,
		`JSON {"utilization":0.5}`:                                  ErrSyntax,
		`JSON {"utilization":{"a":{"b":1}}}`:                        ErrValue,
		"BIN !":                                                     ErrSyntax,
		"BIN " + base([]byte{0x09, 1}):                              ErrSyntax,
		"BIN " + base([]byte{0x0a, 0}):                              ErrSyntax, // cpu_utilization as bytes
		"BIN " + base(append(report(map[protowire.Number]float64{eps: 1}, nil), report(map[protowire.Number]float64{eps: 1}, nil)...)): ErrName,
		"BIN " + base(report(map[protowire.Number]float64{cpu: math.NaN()}, nil)):                                                      ErrValue,
		"BIN " + base(report(nil, map[string]float64{"": 1})):                                                                          ErrName,
		"BIN " + base(report(nil, map[string]float64{"gpu": math.Inf(1)})):                                                             ErrValue,
		"BIN CQAA\nAAAAAADQPw==": ErrSyntax,
	} {
		if got, err := Parse([]byte(value)); !errors.Is(err, want) || got != (Report{}) {
			t.Errorf("%.80q is read as %+v, %v; want %v", value, got, err, want)
		}
	}
}

// TestTextAndBinaryCostNothing to the collector.
func TestTextAndBinaryCostNothing(t *testing.T) {
	text, binary := []byte("TEXT application_utilization=0.5,rps_fractional=100.5,utilization.gpu=0.75"), []byte(base(report(map[protowire.Number]float64{application: 0.5}, map[string]float64{"gpu": 0.5})))
	if got := testing.AllocsPerRun(100, func() { _, _ = Parse(text); _, _ = ParseBinary(binary) }); got != 0 {
		t.Errorf("%g allocations", got)
	}
}

// FuzzParse holds what is read against what may be: nothing outside of bounds, whatever stands there, and the same as written again.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"TEXT application_utilization=0.5,eps=2,utilization.gpu=0.75", `JSON {"cpu_utilization":0.25,"utilization":{"gpu":0.75},"rps":"7"}`,
		"BIN " + base(report(map[protowire.Number]float64{cpu: 0.25, rpsFraction: 100}, map[string]float64{"gpu": 0.75})), "TEXT cpu_utilization:1e-9", `JSON {"eps":1e309}`, "BIN AAAA", "TEXT a=,", ""} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		before := string(value)
		for _, parse := range []func([]byte) (Report, error){Parse, ParseBinary} {
			r, err := parse(value)
			if string(value) != before {
				t.Fatal("what is read is changed")
			}
			if err != nil {
				if r != (Report{}) {
					t.Fatalf("refused, and %+v", r)
				}
				continue
			}
			for _, part := range []float64{r.Application, r.CPU, r.Named} {
				if !(part >= 0 && part <= partMost) {
					t.Fatalf("%q: %+v", value, r)
				}
			}
			if !(r.RPS >= 0 && r.RPS <= rateMost && r.EPS >= 0 && r.EPS <= rateMost && r.Utilisation() >= 0) {
				t.Fatalf("%q: %+v", value, r)
			}
			again := fmt.Sprintf("TEXT application_utilization=%v,cpu_utilization=%v,utilization.x=%v,rps_fractional=%v,eps=%v", r.Application, r.CPU, r.Named, r.RPS, r.EPS)
			if back, err := Parse([]byte(again)); err != nil || back != r {
				t.Fatalf("%q: %+v comes back as %+v, %v", value, r, back, err)
			}
		}
	})
}
