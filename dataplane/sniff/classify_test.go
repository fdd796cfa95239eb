package sniff

import (
	"bytes"
	"testing"
)

// FuzzClassify: what is decided of a beginning holds for all that follows it, and what the window shows is always enough
// to go on.
func FuzzClassify(f *testing.F) {
	for _, s := range []string{"GET / HTTP/1.1\r\n", preface, "OPTIONS * HTTP/1.1\r\n", "CONNECT [::1]:1 HTTP/1.1\r\n", "PUT https://a HTTP/1.0\n", "\x16\x03\x01", ""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		b = b[:min(len(b), window)]
		was, decided := false, false
		for n := range len(b) + 1 {
			http, done := classify(b[:n])
			if decided && !done {
				t.Fatalf("%q was decided at a shorter beginning, and is not", b[:n])
			}
			if decided && http != was {
				t.Fatalf("%q was decided at a shorter beginning, and is otherwise", b[:n])
			}
			if http && done && !bytes.Contains(b[:n], []byte("\n")) {
				t.Fatalf("%q is HTTP before its line is whole", b[:n])
			}
			was, decided = http, done
		}
	})
}

func BenchmarkClassify(b *testing.B) {
	line := []byte("GET /items?id=7 HTTP/1.1\r\nhost: catalog.shop\r\n\r\n")
	b.ReportAllocs()
	for b.Loop() {
		if http, _ := classify(line); !http {
			b.Fatal("it is HTTP")
		}
	}
}
