package telemetry

import (
	"math"
	"sync/atomic"

	"github.com/isthmus-mesh/isthmus/telemetry/exposition"
)

// schema is the resolution of native histograms: eight buckets to a power of two, so that a
// quantile read from them is within 4.5 % of the true one.
//
// Source: "Native histograms" of Prometheus' documentation: schema n has bounds that grow by
// 2^(2^-n).
const (
	schema    = 3
	perOctave = 1 << schema
)

// Durations up to lowest are counted as nothing (the zero bucket), those beyond 2^highest seconds,
// more than a day, as 2^highest.
const (
	lowestExponent, highestExponent = -20, 17
	lowest                          = 1.0 / (1 << -lowestExponent) // seconds, about a microsecond
	octaves                         = highestExponent - lowestExponent
)

// fractions are the upper bounds of an octave's buckets, as fractions in (0.5, 1] of its upper end:
// 0.5·2^(j/8).
var fractions = [perOctave]float64{0.5452538663326288, 0.5946035575013605, 0.6484197773255048, 0.7071067811865475,
	0.7711054127039704, 0.8408964152537144, 0.9170040432046711, 1}

// native is a native histogram of durations. Counters of an octave exist from its first value on:
// most series need a few of them.
type native struct {
	zero    atomic.Uint64
	octaves [octaves]atomic.Pointer[[perOctave]atomic.Uint64]
}

// observe counts a duration in seconds. It allocates for the first value of an octave only.
func (n *native) observe(at float64) {
	if at <= lowest {
		n.zero.Add(1)
		return
	}
	// at is fraction·2^exponent with fraction in [0.5, 1): the octave (2^(exponent-1), 2^exponent].
	// A power of two itself (fraction 0.5) ends the octave below.
	fraction, exponent := math.Frexp(at)
	if fraction == 0.5 {
		fraction, exponent = 1, exponent-1
	}
	if exponent > highestExponent {
		fraction, exponent = 1, highestExponent
	}
	o := &n.octaves[exponent-lowestExponent-1]
	counts := o.Load()
	if counts == nil {
		counts = &[perOctave]atomic.Uint64{}
		if !o.CompareAndSwap(nil, counts) {
			counts = o.Load()
		}
	}
	j := 0
	for fraction > fractions[j] {
		j++
	}
	counts[j].Add(1)
}

// fill shows what was counted.
func (n *native) fill(b *exposition.Buckets) {
	b.Schema, b.ZeroThreshold, b.Zero, b.Native = schema, lowest, n.zero.Load(), b.Native[:0]
	for o := range n.octaves {
		counts := n.octaves[o].Load()
		if counts == nil {
			continue
		}
		for j := range counts {
			if c := counts[j].Load(); c > 0 {
				// The octave below exponent e has the indices 8(e-1)+1 to 8e.
				b.Native = append(b.Native, exposition.NativeBucket{Index: int32((o+lowestExponent)*perOctave + j + 1), Count: c})
			}
		}
	}
}
