package peer_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/replica"
)

// cpu is the time that this process has spent: both clusters, their TLS and gRPC.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkChange tells the latency from a change at the owner to its edit at the importer, and the
// CPU of both sides together, with partitions of some size.
func BenchmarkChange(b *testing.B) {
	for _, n := range []int{100, 5000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			one, two := pair(b)
			many(one, n)
			one.serve()
			f := two.follow(one)
			f.until(b, "in sync", func(s replica.Status) bool { return inSync(s) && two.facts(one) == n })
			lanes := uint32(8)
			b.ReportAllocs()
			began := cpu(b)
			for b.Loop() {
				lanes++
				one.exports.Tell("b", []*replica.Resource{one.service("svc-0007", lanes)}, nil)
				two.has(one, "svc-0007", lanes)
			}
			b.ReportMetric(float64((cpu(b)-began).Microseconds())/float64(b.N), "cpu-µs/op")
		})
	}
}
