package failback

import (
	"time"

	"github.com/isthmus-mesh/isthmus/core/split"
)

// voiceLasts is how long a success is a proxy's word on a cluster. A trip is as long as the proxy says so.
const voiceLasts = 15 * time.Second

// Voice is what one proxy last said of one cluster, for one service. It is a value; the zero Voice said nothing.
type Voice struct {
	// well is when a request there last succeeded; zero if the newest ones all failed.
	well time.Time
	ill  bool
}

// Saw takes how the proxy's newest tries there ended.
func (v *Voice) Saw(r split.Result, now time.Time) {
	switch {
	case r.Ended > r.Failed:
		v.well = now
	case r.Ended > 0:
		v.well = time.Time{}
	}
}

// Tripped takes whether the proxy leaves the whole cluster out by itself.
func (v *Voice) Tripped(ill bool) {
	if v.ill = ill; ill {
		v.well = time.Time{}
	}
}

// Silent reports whether nothing that the proxy said counts any more.
func (v *Voice) Silent(now time.Time) bool { return !v.ill && now.Sub(v.well) > voiceLasts }

// Poll is what the proxies of one cluster say of another, for one service. The zero Poll is nobody.
type Poll struct{ ill, well voices }

// voices are so many proxies, and what they ask for in requests a second.
type voices struct {
	n     int
	asked float64
}

// Count adds a proxy, which asks for so many requests a second of the service.
func (p *Poll) Count(v Voice, asked float64, now time.Time) {
	to := &p.well
	switch {
	case v.ill:
		to = &p.ill
	case v.Silent(now):
		return
	}
	to.n++
	to.asked += asked
}

// Lost reports whether the cluster is out for whoever has something to say: more proxies tripped it than had a request succeed
// there, and they ask for as much. A proxy with a fault of its own is one voice, however often it trips; one for which
// everything failed so far, or nothing was asked, has none.
func (p *Poll) Lost() bool { return p.ill.n > p.well.n && p.ill.asked >= p.well.asked }
