//house:exempt a table of the standard
package http2

import "sync"

// staticTable is RFC 7541 Appendix A; index 1 is element 0.
var staticTable = [...]struct{ name, value string }{
	{":authority", ""}, {":method", "GET"}, {":method", "POST"}, {":path", "/"}, {":path", "/index.html"},
	{":scheme", "http"}, {":scheme", "https"}, {":status", "200"}, {":status", "204"}, {":status", "206"},
	{":status", "304"}, {":status", "400"}, {":status", "404"}, {":status", "500"}, {"accept-charset", ""},
	{"accept-encoding", "gzip, deflate"}, {"accept-language", ""}, {"accept-ranges", ""}, {"accept", ""},
	{"access-control-allow-origin", ""}, {"age", ""}, {"allow", ""}, {"authorization", ""}, {"cache-control", ""},
	{"content-disposition", ""}, {"content-encoding", ""}, {"content-language", ""}, {"content-length", ""},
	{"content-location", ""}, {"content-range", ""}, {"content-type", ""}, {"cookie", ""}, {"date", ""}, {"etag", ""},
	{"expect", ""}, {"expires", ""}, {"from", ""}, {"host", ""}, {"if-match", ""}, {"if-modified-since", ""},
	{"if-none-match", ""}, {"if-range", ""}, {"if-unmodified-since", ""}, {"last-modified", ""}, {"link", ""},
	{"location", ""}, {"max-forwards", ""}, {"proxy-authenticate", ""}, {"proxy-authorization", ""}, {"range", ""},
	{"referer", ""}, {"refresh", ""}, {"retry-after", ""}, {"server", ""}, {"set-cookie", ""},
	{"strict-transport-security", ""}, {"transfer-encoding", ""}, {"user-agent", ""}, {"vary", ""}, {"via", ""},
	{"www-authenticate", ""},
}

const staticLen = len(staticTable)

// Places in the static table.
const (
	idxAuthority     = 1
	idxMethod        = 2
	idxPath          = 4
	idxScheme        = 6
	idxStatus        = 8
	idxContentLength = 28
)

// staticFields is the table as octets.
var staticFields = sync.OnceValue(func() *[staticLen][2][]byte {
	t := new([staticLen][2][]byte)
	for i, e := range staticTable {
		t[i] = [2][]byte{[]byte(e.name), []byte(e.value)}
	}
	return t
})

// staticNames finds the first entry of a name, counted from 1.
var staticNames = sync.OnceValue(func() map[string]uint8 {
	m := make(map[string]uint8, staticLen)
	for i := staticLen; i > 0; i-- {
		m[staticTable[i-1].name] = uint8(i)
	}
	return m
})

// entryOverhead is what an entry costs beside its octets (RFC 7541 §4.1).
const entryOverhead = 32

// table is a dynamic table (RFC 7541 §2.3.2): a ring of entries over one run of bytes,
// oldest first, which is moved to the front when it reaches the end of its storage.
type table struct {
	entries  []tableEntry // a ring of 128, a power of two
	oldest   int
	n        int
	buf      []byte
	size     int // as RFC 7541 §4.1 counts
	max      int
	inserted uint32 // entries ever inserted
}

type tableEntry struct {
	off, name, value uint32
	valid            bool // see fieldSink
}

// at returns the entry of index i, the newest being 0. The slices are valid until the
// next add.
func (t *table) at(i int) (name, value []byte) {
	e := &t.entries[(t.oldest+t.n-1-i)&(len(t.entries)-1)]
	mid := e.off + e.name
	return t.buf[e.off:mid], t.buf[mid : mid+e.value]
}

// valid tells what add was told of the entry of index i.
func (t *table) valid(i int) bool {
	return t.entries[(t.oldest+t.n-1-i)&(len(t.entries)-1)].valid
}

func (t *table) evictTo(size int) {
	for t.size > size {
		e := t.entries[t.oldest]
		t.size -= int(e.name) + int(e.value) + entryOverhead
		t.oldest = (t.oldest + 1) & (len(t.entries) - 1)
		t.n--
	}
}

func (t *table) setMax(n int) {
	t.max = n
	t.evictTo(n)
}

// add inserts an entry and reports whether there was room (RFC 7541 §4.4: an entry
// above the maximum empties the table). Neither slice may point into the table.
func (t *table) add(name, value []byte, valid bool) bool {
	need := len(name) + len(value)
	if need+entryOverhead > t.max {
		t.evictTo(0)
		return false
	}
	t.evictTo(t.max - need - entryOverhead)
	if t.entries == nil {
		t.entries = make([]tableEntry, defaultTableBytes/entryOverhead) // for any max it may ever have
	}
	if len(t.buf)+need > cap(t.buf) {
		t.compact(need)
	}
	off := len(t.buf)
	t.buf = append(append(t.buf, name...), value...)
	t.entries[(t.oldest+t.n)&(len(t.entries)-1)] = tableEntry{uint32(off), uint32(len(name)), uint32(len(value)), valid}
	t.n++
	t.size += need + entryOverhead
	t.inserted++
	return true
}

// compact moves the live bytes to the front, of larger storage if they fill more than half.
func (t *table) compact(need int) {
	start := len(t.buf)
	if t.n > 0 {
		start = int(t.entries[t.oldest].off)
	}
	live := t.buf[start:]
	if 2*(len(live)+need) > cap(t.buf) {
		t.buf = append(make([]byte, 0, max(1<<10, 4*(len(live)+need))), live...)
	} else {
		t.buf = t.buf[:copy(t.buf, live)]
	}
	for i := range t.n {
		t.entries[(t.oldest+i)&(len(t.entries)-1)].off -= uint32(start)
	}
}

// ringLen is the least power of two that holds n.
func ringLen(n int) int {
	l := 1
	for l < n {
		l <<= 1
	}
	return l
}
