package fallback

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
)

var catalog = mesh.ServiceName{Namespace: "shop", Name: "catalog"}

// head is a head of lines "name: value"; a request's begins with its method.
func head(method, path string, lines ...string) *message.Head {
	h := &message.Head{}
	h.Reset()
	h.Method, h.Path, h.Authority = []byte(method), []byte(path), []byte("catalog.shop")
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		h.Add(strings.ToLower(name), value)
	}
	return h
}

func said(status int, length int, lines ...string) *message.Head {
	h := head("", "", lines...)
	h.Status, h.Length = status, int64(length)
	return h
}

var epoch = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

// tell gives an answer to the cache as the pipeline does.
func tell(c *Cache, request, answer *message.Head, body string, at time.Time) {
	x := c.Learn(&Ask{catalog, 80, request, at}, answer, at)
	x.Add([]byte(body))
	x.Keep()
}

// lines splits "a: b | c: d".
func lines(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, " | ")
}

// TestAnswersAreKeptAndGivenAsSharedCachesMay: one answer, and one request after the service has died. The rows are the rules of
// RFC 9111 for caches that are shared, and of RFC 5861.
func TestAnswersAreKeptAndGivenAsSharedCachesMay(t *testing.T) {
	const hour = time.Hour
	for _, c := range []struct {
		rule            string
		request, answer string // fields of the answered request and of its answer
		status          int    // 200 if 0
		then            string // the request after, "METHOD fields"; GET if empty
		after, maxStale time.Duration
		want            bool
	}{
		// What may be kept (§3).
		{rule: "max-age", answer: "Cache-Control: max-age=60", want: true},
		{rule: "public alone is explicit", answer: "Cache-Control: public", want: true},
		{rule: "s-maxage", answer: "Cache-Control: s-maxage=60", want: true},
		{rule: "Expires", answer: "Expires: Sun, 29 Nov 2026 13:00:00 GMT", want: true},
		{rule: "stale-if-error alone", answer: "Cache-Control: stale-if-error=60", want: true},
		{rule: "nothing explicit", answer: "ETag: \"1\""},
		{rule: "no-store", answer: "Cache-Control: max-age=60, no-store"},
		{rule: "no-cache", answer: "Cache-Control: max-age=60, no-cache"},
		{rule: "no-cache of fields is read as of all", answer: "Cache-Control: no-cache=\"set-cookie\", max-age=60"},
		{rule: "private", answer: "Cache-Control: private, max-age=60"},
		{rule: "private of fields is read as of all", answer: "Cache-Control: max-age=60, private=\"x-user\""},
		{rule: "in capitals and spread over lines", answer: "Cache-Control: Max-Age=60 | Cache-Control: NO-STORE"},
		{rule: "a directive inside a quoted string is none", answer: "Cache-Control: ext=\"no-store, private\", max-age=60", want: true},
		{rule: "Pragma of HTTP/1.0", answer: "Pragma: no-cache | Expires: Sun, 29 Nov 2026 13:00:00 GMT"},
		{rule: "Pragma beside Cache-Control says nothing", answer: "Pragma: no-cache | Cache-Control: max-age=60", want: true},
		{rule: "Set-Cookie", answer: "Cache-Control: public, max-age=60 | Set-Cookie: a=b"},
		{rule: "a request that is not to be stored", request: "Cache-Control: no-store", answer: "Cache-Control: max-age=60"},
		{rule: "a request that would have a new answer is stored", request: "Cache-Control: no-cache", answer: "Cache-Control: max-age=60", want: true},
		{rule: "another status", status: 404, answer: "Cache-Control: max-age=60"},
		{rule: "a part", request: "Range: bytes=0-1", answer: "Cache-Control: max-age=60"},
		{rule: "a part by its answer", answer: "Cache-Control: max-age=60 | Content-Range: bytes 0-1/5"},
		// Credentials (§3.5), and cookies as if they were.
		{rule: "authorised", request: "Authorization: Bearer x", answer: "Cache-Control: max-age=60"},
		{rule: "authorised and public, to another", request: "Authorization: Bearer x", answer: "Cache-Control: public, max-age=60", want: true},
		{rule: "with a cookie", request: "Cookie: a=b", answer: "Cache-Control: max-age=60"},
		{rule: "with a cookie and public", request: "Cookie: a=b", answer: "Cache-Control: public, max-age=60", want: true},
		{rule: "to who is authorised, not public", answer: "Cache-Control: max-age=60", then: "GET Authorization: Bearer y"},
		{rule: "to who is authorised, public", answer: "Cache-Control: public", then: "GET Authorization: Bearer y", want: true},
		{rule: "to who has a cookie, not public", answer: "Cache-Control: max-age=60", then: "GET Cookie: c=d"},
		// Vary (§4.1).
		{rule: "the same variant", request: "Accept: a", answer: "Cache-Control: max-age=60 | Vary: Accept", then: "GET Accept: a", want: true},
		{rule: "another variant", request: "Accept: a", answer: "Cache-Control: max-age=60 | Vary: accept", then: "GET Accept: b"},
		{rule: "a variant with nothing", answer: "Cache-Control: max-age=60 | Vary: Accept, X-B", want: true},
		{rule: "two lines are one value", request: "Accept: a | Accept: b", answer: "Cache-Control: max-age=60 | Vary: Accept", then: "GET Accept: a, b", want: true},
		{rule: "Vary of all", answer: "Cache-Control: max-age=60 | Vary: Accept, *"},
		// Methods (§4).
		{rule: "HEAD by a GET", answer: "Cache-Control: max-age=60", then: "HEAD ", want: true},
		{rule: "never POST", answer: "Cache-Control: max-age=60", then: "POST "},
		{rule: "never OPTIONS", answer: "Cache-Control: max-age=60", then: "OPTIONS "},
		{rule: "no part of a whole", answer: "Cache-Control: max-age=60", then: "GET Range: bytes=0-1"},
		// What a client demands (§5.2.1).
		{rule: "a client that wants a new one", answer: "Cache-Control: max-age=60", then: "GET Cache-Control: no-cache"},
		{rule: "a client that wants a new one, by Pragma", answer: "Cache-Control: max-age=60", then: "GET Pragma: no-cache"},
		{rule: "a client that wants a young one", answer: "Cache-Control: max-age=60", then: "GET Cache-Control: max-age=0"},
		{rule: "a client that bears errors less", answer: "Cache-Control: max-age=60", then: "GET Cache-Control: max-age=0, stale-if-error=600", want: true},
		// Freshness (§4.2) and beyond.
		{rule: "stale within the policy", answer: "Cache-Control: max-age=60", after: 30 * time.Minute, want: true},
		{rule: "too stale for the policy", answer: "Cache-Control: max-age=60", after: hour + 61*time.Second},
		{rule: "the policy may say more", answer: "Cache-Control: max-age=60", after: 2 * hour, maxStale: 24 * hour, want: true},
		{rule: "age on arrival counts", answer: "Cache-Control: max-age=60 | Age: 3000", after: 30 * time.Minute},
		{rule: "stale-if-error says less", answer: "Cache-Control: max-age=60, stale-if-error=60", after: 3 * time.Minute},
		{rule: "within stale-if-error", answer: "Cache-Control: max-age=60, stale-if-error=600", after: 3 * time.Minute, want: true},
		{rule: "stale-if-error beyond the policy", answer: "Cache-Control: max-age=60, stale-if-error=86400", after: 2 * hour},
		{rule: "must-revalidate, stale", answer: "Cache-Control: max-age=60, must-revalidate", after: 61 * time.Second},
		{rule: "must-revalidate, fresh", answer: "Cache-Control: max-age=60, must-revalidate", after: 59 * time.Second, want: true},
		{rule: "must-revalidate outranks stale-if-error", answer: "Cache-Control: max-age=60, must-revalidate, stale-if-error=600", after: 61 * time.Second},
		{rule: "proxy-revalidate, stale", answer: "Cache-Control: max-age=60, proxy-revalidate", after: 61 * time.Second},
		{rule: "s-maxage is proxy-revalidate", answer: "Cache-Control: max-age=600, s-maxage=60", after: 61 * time.Second},
		{rule: "s-maxage outranks max-age", answer: "Cache-Control: max-age=1, s-maxage=60", after: 59 * time.Second, want: true},
		{rule: "the least of two", answer: "Cache-Control: max-age=600, max-age=60, must-revalidate", after: 61 * time.Second},
		{rule: "a number that is none is 0", answer: "Cache-Control: max-age=x, must-revalidate"},
		{rule: "a number beyond all is many years", answer: "Cache-Control: max-age=99999999999999999999, must-revalidate", after: 2 * hour, want: true},
		{rule: "Expires that is no date has passed", answer: "Expires: 0", after: hour + time.Second},
		{rule: "max-age outranks Expires", answer: "Expires: 0 | Cache-Control: max-age=60, must-revalidate", after: 59 * time.Second, want: true},
	} {
		var cache Cache
		status := c.status
		if status == 0 {
			status = 200
		}
		const body = "the body"
		tell(&cache, head("GET", "/a", lines(c.request)...), said(status, len(body), lines(c.answer)...), body, epoch)
		method, fields, _ := strings.Cut(c.then, " ")
		if method == "" {
			method = "GET"
		}
		maxStale := c.maxStale
		if maxStale == 0 {
			maxStale = hour
		}
		ask := &Ask{catalog, 80, head(method, "/a", lines(fields)...), epoch.Add(c.after)}
		var h message.Head
		got, ok := []byte(nil), false
		if cached(ask.Head) {
			got, ok = cache.Find(ask, maxStale, &h)
		}
		if ok != c.want || ok && string(got) != body {
			t.Errorf("%s: given %v %q, want %v", c.rule, ok, got, c.want)
		}
		if has := cached(ask.Head) && cache.Has(ask, maxStale); has != ok {
			t.Errorf("%s: has %v, and gives %v", c.rule, has, ok)
		}
	}
}

// TestGivenAnswersTellTheirAge: what it had when it came, and since.
func TestGivenAnswersTellTheirAge(t *testing.T) {
	var c Cache
	tell(&c, head("GET", "/a"), said(200, 1, "Cache-Control: max-age=60", "Age: 7", "ETag: \"x\"", "Content-Type: text/plain"), "1", epoch)
	var h message.Head
	if _, ok := c.Find(&Ask{catalog, 80, head("GET", "/a"), epoch.Add(35 * time.Second)}, time.Hour, &h); !ok {
		t.Fatal("nothing is given")
	}
	if got := string(h.Get("age")); got != "42" || string(h.Get("etag")) != `"x"` || h.Length != 1 || h.Status != 200 {
		t.Errorf("age %q of %+v", got, h.Fields)
	}
	if _, once := h.Only("age"); !once {
		t.Error("two ages")
	}
}

// TestServicesPortsHostsAndPathsAreApart: nobody is given what was asked of another.
func TestServicesPortsHostsAndPathsAreApart(t *testing.T) {
	var c Cache
	tell(&c, head("GET", "/a?b=1"), said(200, 1, "Cache-Control: public"), "1", epoch)
	at := func(s mesh.ServiceName, port uint16, host, path string) bool {
		h := head("GET", path)
		h.Authority = []byte(host)
		return c.Has(&Ask{s, port, h, epoch}, time.Hour)
	}
	if !at(catalog, 80, "Catalog.Shop", "/a?b=1") {
		t.Error("a host in capitals is another")
	}
	other := mesh.ServiceName{Namespace: "shop", Name: "cart"}
	if at(other, 80, "catalog.shop", "/a?b=1") || at(catalog, 81, "catalog.shop", "/a?b=1") || at(catalog, 80, "other", "/a?b=1") || at(catalog, 80, "catalog.shop", "/a?b=2") || at(catalog, 80, "catalog.shop", "/A?b=1") {
		t.Error("another's answer is given")
	}
}

// TestTheNewestWordCounts: what the service says since takes what was kept away, or its place.
func TestTheNewestWordCounts(t *testing.T) {
	for _, c := range []struct {
		what   string
		method string
		status int
		lines  string
		want   string // what is given after; empty is nothing
	}{
		{"a newer answer", "GET", 200, "Cache-Control: max-age=60", "new"},
		{"one that is not to be kept", "GET", 200, "Cache-Control: no-store", ""},
		{"gone", "GET", 404, "", ""},
		{"not modified", "GET", 304, "", "old"},
		{"too many", "GET", 429, "", "old"},
		{"a failure", "GET", 503, "", "old"},
		{"a change", "POST", 201, "", ""},
		{"a change that failed", "PUT", 500, "", "old"},
		{"a change that was refused", "DELETE", 403, "", "old"},
		{"a question", "HEAD", 200, "Cache-Control: no-store", "old"},
	} {
		var cache Cache
		tell(&cache, head("GET", "/a"), said(200, 3, "Cache-Control: max-age=60"), "old", epoch)
		later := epoch.Add(2 * time.Second)
		tell(&cache, head(c.method, "/a"), said(c.status, 3, lines(c.lines)...), "new", later)
		var h message.Head
		got, _ := cache.Find(&Ask{catalog, 80, head("GET", "/a"), later}, time.Hour, &h)
		if string(got) != c.want {
			t.Errorf("%s: %q is given, want %q", c.what, got, c.want)
		}
	}
}

// TestOnlyWholeAnswersAreKept: broken off, shorter than announced, or too large.
func TestOnlyWholeAnswersAreKept(t *testing.T) {
	kept := func(announced int, pieces int, size int, whole bool) bool {
		var c Cache
		x := c.Learn(&Ask{catalog, 80, head("GET", "/a"), epoch}, said(200, announced, "Cache-Control: max-age=60"), epoch)
		for range pieces {
			x.Add(make([]byte, size))
		}
		if whole {
			x.Keep()
		}
		x.End()
		if c.copies != 0 {
			t.Errorf("%d bytes of copies are held by nobody", c.copies)
		}
		return c.Has(&Ask{catalog, 80, head("GET", "/a"), epoch}, time.Hour)
	}
	if !kept(10, 1, 10, true) || !kept(message.LengthUnknown, 3, 10, true) || !kept(0, 0, 0, true) {
		t.Error("a whole answer is not kept")
	}
	if kept(10, 1, 10, false) || kept(10, 1, 9, true) || kept(answerMost+1, 0, 0, true) || kept(message.LengthUnknown, 3, answerMost/2, true) {
		t.Error("an answer is kept that is not whole, or too large")
	}
}

// TestACacheIsBounded: in bytes, in variants, in what is being copied; what was used last stays.
func TestACacheIsBounded(t *testing.T) {
	var c Cache
	body := strings.Repeat("x", 512<<10)
	at := epoch
	const n = 100
	for i := range n {
		at = at.Add(time.Second)
		tell(&c, head("GET", fmt.Sprint("/", i)), said(200, len(body), "Cache-Control: public"), body, at)
		var h message.Head
		c.Find(&Ask{catalog, 80, head("GET", "/0"), at}, time.Hour, &h) // it is used all the time
		if c.Size() > cacheMost {
			t.Fatalf("%d bytes after %d answers", c.Size(), i+1)
		}
	}
	has := func(path string) bool { return c.Has(&Ask{catalog, 80, head("GET", path), at}, time.Hour) }
	if !has("/0") || has("/1") || !has(fmt.Sprint("/", n-1)) {
		t.Error("what was used the longest ago has not gone first")
	}
	for i := range 3 * variantsMost {
		at = at.Add(time.Second)
		tell(&c, head("GET", "/v", fmt.Sprint("Accept: ", i)), said(200, 1, "Cache-Control: public", "Vary: Accept"), "v", at)
	}
	if got := len(c.byKey[(&Ask{catalog, 80, head("GET", "/v"), at}).key()]); got != variantsMost {
		t.Errorf("%d variants", got)
	}
	held := []*Copy{}
	for i := range 10 {
		x := c.Learn(&Ask{catalog, 80, head("GET", fmt.Sprint("/c", i)), at}, said(200, answerMost, "Cache-Control: public"), at)
		x.Add(make([]byte, answerMost))
		held = append(held, x)
	}
	if c.copies > copiesMost {
		t.Errorf("%d bytes in copies", c.copies)
	}
	for _, x := range held {
		x.Keep()
	}
	if c.copies != 0 || c.Size() > cacheMost {
		t.Errorf("%d bytes in copies and %d kept after all have ended", c.copies, c.Size())
	}
	sum := 0
	for el := c.used.Front(); el != nil; el = el.Next() {
		sum += el.Value.(*entry).size()
	}
	if sum != c.size {
		t.Errorf("%d bytes are counted, and %d there", c.size, sum)
	}
}

// TestAnAnswerIsCopiedOnceASecond: what many ask for at once is not copied for each.
func TestAnAnswerIsCopiedOnceASecond(t *testing.T) {
	var c Cache
	learn := func(at time.Time) *Copy {
		return c.Learn(&Ask{catalog, 80, head("GET", "/a"), at}, said(200, 1, "Cache-Control: public"), at)
	}
	tell(&c, head("GET", "/a"), said(200, 1, "Cache-Control: public"), "1", epoch)
	if learn(epoch.Add(renewed-1)) != nil || learn(epoch.Add(renewed)) == nil {
		t.Error("copied again too soon, or never")
	}
}

func FuzzCacheControl(f *testing.F) {
	for _, s := range []string{"max-age=60", "private=\"a, b\", no-store", "a=\"\\\"\", public", ",,=,\"", "max-age=99999999999", "s-maxage = 5 , x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		parse := func(v string) control {
			c := control{maxAge: absent, sMaxAge: absent, staleIfError: absent, minFresh: absent}
			c.take([]byte(v))
			return c
		}
		c := parse(s)
		for _, d := range []time.Duration{c.maxAge, c.sMaxAge, c.staleIfError, c.minFresh} {
			if d < absent || d > secondsMost*time.Second {
				t.Fatalf("%q: %v", s, d)
			}
		}
		// A prohibition in front is never lost, whatever stands behind it, nor is a number raised.
		p := parse("no-store, private, max-age=5, " + s)
		if !p.noStore || !p.private || p.maxAge < 0 || p.maxAge > 5*time.Second {
			t.Fatalf("%q behind others: %+v", s, p)
		}
		if c.noStore && !parse(s+", x=1").noStore {
			t.Fatalf("%q before others", s)
		}
	})
}
