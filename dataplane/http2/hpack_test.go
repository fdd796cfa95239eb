package http2

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"
	"pgregory.net/rapid"
)

// collect is a sink that keeps everything.
type collect []hpack.HeaderField

func (c *collect) field(name, value []byte, _ bool) (bool, error) {
	*c = append(*c, hpack.HeaderField{Name: string(name), Value: string(value)})
	return true, nil
}

// FuzzHPACKDecode: what we decode is what package hpack decodes; what one refuses the
// other refuses, save integers that only we find too large.
func FuzzHPACKDecode(f *testing.F) {
	var buf bytes.Buffer
	enc := hpack.NewEncoder(&buf)
	for i := range 5 {
		for _, n := range []string{":path", "user-agent", "x-long", "cookie"} {
			enc.WriteField(hpack.HeaderField{Name: n, Value: strings.Repeat(n, i), Sensitive: i == 3})
		}
	}
	f.Add(buf.Bytes())
	f.Add([]byte{0x20, 0x3f, 0xe1, 0x1f, 0x82, 0x40, 1, 'a', 1, 'b', 0xbe, 0x7e, 0x81, 0x1f})
	f.Fuzz(func(t *testing.T, b []byte) {
		ours := newDecoder()
		var got collect
		err := ours.decode(b, &got)
		var want collect
		theirs := hpack.NewDecoder(4096, func(hf hpack.HeaderField) {
			hf.Sensitive = false
			want = append(want, hf)
		})
		_, theirErr := theirs.Write(b)
		if theirErr == nil {
			theirErr = theirs.Close()
		}
		if err == errInteger {
			return
		}
		// Package hpack takes at most two updates, we any number at the beginning.
		if (err == nil) != (theirErr == nil) && !(err == nil && strings.Contains(theirErr.Error(), "table size update")) &&
			err != errTableUpdate {
			t.Fatalf("ours %v, theirs %v, for %x", err, theirErr, b)
		}
		if err == nil && theirErr == nil && fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("ours %v, theirs %v", got, want)
		}
	})
}

func TestHuffmanRoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := string(rapid.SliceOf(rapid.Byte()).Draw(rt, "s"))
		got, ok := huffmanTable().decode(nil, hpack.AppendHuffmanString(nil, s))
		if !ok || string(got) != s {
			rt.Fatalf("%q %v; want %q", got, ok, s)
		}
	})
}

// What we encode, package hpack and we decode, over many sections and changes of the
// table's size.
func TestEncoderRoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		limit := rapid.SampledFrom([]int{0, 100, 4096}).Draw(rt, "our limit")
		e := newEncoder(limit)
		var theirs collect
		xd := hpack.NewDecoder(4096, func(hf hpack.HeaderField) { theirs = append(theirs, hf) })
		d := newDecoder()
		names := []string{"a", "content-type", "authorization", "cookie", ":path", "x-request-id", strings.Repeat("n", 90)}
		for range rapid.IntRange(1, 20).Draw(rt, "sections") {
			for range rapid.IntRange(0, 2).Draw(rt, "changes") {
				e.setPeerLimit(rapid.SampledFrom([]int{0, 50, 500, 4096, 1 << 20}).Draw(rt, "peer limit"))
			}
			b := e.begin(nil)
			var want collect
			for range rapid.IntRange(0, 30).Draw(rt, "fields") {
				hf := hpack.HeaderField{Name: rapid.SampledFrom(names).Draw(rt, "name"),
					Value: strings.Repeat(rapid.SampledFrom([]string{"x", "y", "zz"}).Draw(rt, "v"), rapid.IntRange(0, 60).Draw(rt, "n"))}
				want = append(want, hf)
				b = e.field(b, []byte(hf.Name), []byte(hf.Value))
			}
			theirs = nil
			if _, err := xd.Write(b); err != nil {
				rt.Fatalf("package hpack: %v", err)
			}
			if err := xd.Close(); err != nil {
				rt.Fatal(err)
			}
			var ours collect
			if err := d.decode(b, &ours); err != nil {
				rt.Fatalf("our decoder: %v", err)
			}
			for i := range theirs {
				theirs[i].Sensitive = false
			}
			if fmt.Sprint(theirs) != fmt.Sprint(want) || fmt.Sprint(ours) != fmt.Sprint(want) {
				rt.Fatalf("package hpack %v, we %v; want %v", theirs, ours, want)
			}
			if e.t.size > e.t.max || e.t.size != d.t.size {
				rt.Fatalf("table of %d octets here, %d there, at most %d", e.t.size, d.t.size, e.t.max)
			}
		}
	})
}

func TestEncoderIndexesOnlyWhatRepeats(t *testing.T) {
	e := newEncoder(4096)
	section := func(id string) int {
		b := e.begin(nil)
		for _, f := range [][2]string{{":path", "/" + id}, {"x-trace", id}, {"user-agent", "curl/8"}, {"isthmus-to", "shop/cart:80"},
			{"authorization", "short"}} {
			b = e.field(b, []byte(f[0]), []byte(f[1]))
		}
		return len(b)
	}
	first := section("0")
	for i := range 1000 {
		section(fmt.Sprint(i + 1))
	}
	if e.t.n != 2 || e.t.inserted != 2 {
		t.Errorf("%d entries, %d ever; want the two that repeat", e.t.n, e.t.inserted)
	}
	if last := section("0"); last >= first-20 {
		t.Errorf("%d octets after 1,000 sections, %d at first", last, first)
	}
	if b := e.field(nil, []byte("authorization"), []byte("short")); b[0]&0xf0 != 0x10 {
		t.Errorf("a short secret begins with %#x; want never indexed", b[0])
	}
}

func TestFieldsThatShareAPlaceAreIndexedAllTheSame(t *testing.T) {
	e := newEncoder(4096)
	name, first := []byte("x-kind"), []byte("first")
	second := []byte("second")
	for i := 0; uint8(e.hash(name, first)) != uint8(e.hash(name, second)); i++ {
		second = fmt.Append(nil, "second-", i)
	}
	for range 2 * len(e.seen) {
		e.field(e.field(nil, name, first), name, second)
	}
	if e.t.n != 2 {
		t.Errorf("%d of 2 fields that repeat by turns are in the table", e.t.n)
	}
}
