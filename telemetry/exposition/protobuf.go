package exposition

import (
	"math"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// Fields of metrics.proto (prometheus/client_model, package io.prometheus.client).
const (
	familyName, familyHelp, familyType, familyMetric = 1, 2, 3, 4

	metricLabel, metricGauge, metricCounter, metricHistogram = 1, 2, 3, 7

	labelName, labelValue = 1, 2

	gaugeOrCounterValue = 1

	histogramCount, histogramSum, histogramBucket               = 1, 2, 3
	histogramSchema, histogramZeroThreshold, histogramZeroCount = 5, 6, 7
	histogramPositiveSpan, histogramPositiveDelta               = 12, 13
	bucketCumulativeCount, bucketUpperBound                     = 1, 2
	spanOffset, spanLength                                      = 1, 2
)

// spanGap is how many empty buckets are written as zeros before a new span begins: a span costs
// about as much as three deltas.
const spanGap = 2

func beginFamily(b []byte, name, help string, k Kind) []byte {
	b = text(b, familyName, name)
	b = text(b, familyHelp, help)
	return varint(b, familyType, uint64(k))
}

func appendValue(b []byte, labels []Label, k Kind, v float64) []byte {
	field := protowire.Number(metricCounter)
	if k == Gauge {
		field = metricGauge
	}
	return message(b, familyMetric, message(appendLabels(nil, labels), field, double(nil, gaugeOrCounterValue, v)))
}

func appendLabels(b []byte, labels []Label) []byte {
	for _, l := range labels {
		b = message(b, metricLabel, text(text(nil, labelName, l.Name), labelValue, l.Value))
	}
	return b
}

func appendHistogram(b []byte, labels []Label, h *Buckets) []byte {
	// The native buckets and the zero bucket must sum up to the count, or a scraper refuses the
	// histogram: what another goroutine has counted in only one of the two when it is read, is told
	// with the next scrape.
	native := h.Zero
	for _, n := range h.Native {
		native += n.Count
	}
	m := double(varint(nil, histogramCount, native), histogramSum, h.Sum)
	var sum uint64
	for i, bound := range h.Bounds {
		sum += h.Counts[i]
		m = message(m, histogramBucket, double(varint(nil, bucketCumulativeCount, min(sum, native)), bucketUpperBound, bound))
	}
	m = varint(m, histogramSchema, protowire.EncodeZigZag(int64(h.Schema)))
	m = double(m, histogramZeroThreshold, h.ZeroThreshold)
	m = appendNative(varint(m, histogramZeroCount, h.Zero), h.Native)
	return message(b, familyMetric, message(appendLabels(nil, labels), metricHistogram, m))
}

// appendNative writes buckets as spans of consecutive indices and the difference of each count to
// the one before it. A native histogram without a span would be taken for a classic one: it gets an
// empty span.
func appendNative(b []byte, native []NativeBucket) []byte {
	var deltas []byte
	var before uint64
	delta := func(count uint64) {
		deltas = protowire.AppendVarint(deltas, protowire.EncodeZigZag(int64(count)-int64(before)))
		before = count
	}
	span := func(offset int32, length int) {
		b = message(b, histogramPositiveSpan,
			varint(varint(nil, spanOffset, protowire.EncodeZigZag(int64(offset))), spanLength, uint64(length)))
	}
	next := int32(0) // the index after the last span, from which the next is counted
	for i := 0; i < len(native); {
		offset, length := native[i].Index-next, 0
		at := native[i].Index
		for ; i < len(native) && (length == 0 || native[i].Index-at <= spanGap); i++ {
			for ; at < native[i].Index; at++ {
				delta(0)
				length++
			}
			delta(native[i].Count)
			at++
			length++
		}
		span(offset, length)
		next = at
	}
	if len(native) == 0 {
		span(0, 0)
	}
	if len(deltas) == 0 {
		return b
	}
	return protowire.AppendBytes(protowire.AppendTag(b, histogramPositiveDelta, protowire.BytesType), deltas)
}

func message(b []byte, field protowire.Number, m []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), m)
}

func text(b []byte, field protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), strings.ToValidUTF8(s, "\uFFFD"))
}

func varint(b []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

func double(b []byte, field protowire.Number, v float64) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(b, field, protowire.Fixed64Type), math.Float64bits(v))
}
