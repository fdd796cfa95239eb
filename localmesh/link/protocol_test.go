package link

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestDecodeRequest(t *testing.T) {
	for _, c := range []struct{ line, fault string }{
		{`{"op":"shape","rtt":"80ms","jitter":"5ms","loss":0.01,"bandwidth":1e9}`, ""},
		{`{"op":"slow","rtt":"1s"}`, ""},
		{`{"op":"cut"}`, ""},
		{`{"op":"cut","direction":"b-to-a"}`, ""},
		{`{"op":"cut","traffic":"control"}`, ""},
		{`{"op":"heal","traffic":"both"}`, ""},
		{`{"op":"stats"}`, ""},
		{``, "EOF"},
		{`[]`, "cannot unmarshal"},
		{`{"op":"cut"} {}`, "more after"},
		{`{"op":"explode"}`, `op "explode"`},
		{`{"op":"cut","direction":"up"}`, "a-to-b, b-to-a or both"},
		{`{"op":"cut","traffic":"voice"}`, "data, control or both"},
		{`{"op":"stats","traffic":"data"}`, "takes no traffic"},
		{`{"op":"cut","rtt":"1s"}`, "takes no shape"},
		{`{"op":"stats","direction":"both"}`, "takes no direction"},
		{`{"op":"shape"}`, "at least one"},
		{`{"op":"shape","latency":"1s"}`, "unknown field"},
		{`{"op":"shape","rtt":"fast"}`, "invalid duration"},
		{`{"op":"` + strings.Repeat("x", lineMaxBytes) + `"}`, "longer than"},
	} {
		_, err := decodeRequest([]byte(c.line))
		if c.fault == "" && err != nil || c.fault != "" && (err == nil || !strings.Contains(err.Error(), c.fault)) {
			t.Errorf("%.80s: error %v, want %q", c.line, err, c.fault)
		}
	}
}

func FuzzDecodeRequest(f *testing.F) {
	for _, s := range []string{
		`{"op":"shape","rtt":"80ms","jitter":"5ms","loss":0.01,"bandwidth":1e9}`, `{"op":"cut","direction":"both"}`,
		`{"op":"heal","direction":"a-to-b"}`, `{"op":"cut","traffic":"control"}`, `{"op":"stats"}`, `{"op":"pause"}`, `{}`, `{"op":"shape","bandwidth":1e300}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		q, err := decodeRequest(line)
		if err != nil {
			if !reflect.DeepEqual(q, request{}) {
				t.Fatalf("refused, yet returned %+v", q)
			}
			return
		}
		if s, err := q.apply(Shape{}); err == nil && s.Validate() == nil {
			if w := s.Window(); w < windowMinBytes || w > windowMaxBytes {
				t.Fatalf("window %d of %+v", w, s)
			}
		}
		text, err := json.Marshal(q)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeRequest(text)
		if err != nil || !reflect.DeepEqual(q, again) {
			t.Fatalf("%s: %+v, then %+v, %v", text, q, again, err)
		}
	})
}

const written = `{
  "a": "eu-west", "b": "us-east", "seed": 7, "control": "/tmp/x.sock",
  "shape": {"rtt": "80ms", "jitter": "5ms", "loss": 0.01, "bandwidth": 1e9},
  "forwards": [
    {"name": "gateway", "direction": "a-to-b", "listen": "127.11.255.2:15443", "target": "127.12.0.3:15443", "source": "127.12.255.1"},
    {"name": "gateway", "direction": "b-to-a", "listen": "127.12.255.1:15443", "target": "127.11.0.3:15443", "source": "127.11.255.2"}
  ]
}`

func TestReadConfig(t *testing.T) {
	c, err := ReadConfig(strings.NewReader(written))
	if err != nil {
		t.Fatal(err)
	}
	if want := (Shape{RTT: 80 * time.Millisecond, Jitter: 5 * time.Millisecond, Loss: 0.01, Bandwidth: 1e9}); c.Shape != want {
		t.Errorf("shape %+v, want %+v", c.Shape, want)
	}
	if c.MemoryMax != MemoryMaxDefault || c.ConnectionsMax != ConnectionsMaxDefault || c.Forwards[1].Direction != BtoA {
		t.Errorf("read %+v", c)
	}
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ReadConfig(strings.NewReader(string(text))); err != nil || !reflect.DeepEqual(c, again) {
		t.Errorf("written and read again: %+v, %v", again, err)
	}
}

func TestReadConfigTellsAllFaults(t *testing.T) {
	bad := strings.NewReplacer(
		`"us-east"`, `"eu-west"`, `"127.12.0.3:15443"`, `"10.0.0.1:0"`, `"5ms"`, `"5s"`, "0.01", "1", "1e9", "1",
		`"127.12.255.1:15443"`, `"127.11.255.2:15443"`, `"/tmp/x.sock"`, `"`+strings.Repeat("x", 200)+`"`,
	).Replace(written)
	_, err := ReadConfig(strings.NewReader(bad))
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		"a, b:", "target: 10.0.0.1 is not a loopback", "target: port 0", "jitter:", "loss:", "bandwidth:", "forwards[1].listen", "control:",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("fault %q is missing from:\n%v", want, err)
		}
	}
	for _, text := range []string{"", "{", `{"a":"x"} x`, `{"rtt":1}`, strings.Repeat(" ", configMaxBytes+1)} {
		if _, err := ReadConfig(strings.NewReader(text)); err == nil {
			t.Errorf("%.20q accepted", text)
		}
	}
}
