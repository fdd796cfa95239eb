package load

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// rowOf is the split of a service here as peers are told of it.
func (b *Balancer) rowOf(s *service) []mesh.Share {
	out := slices.Clone(s.shares)
	for i := range out {
		if out[i].Cluster == b.self {
			out[i].Cluster = ""
		}
	}
	return out
}

// rowIn is the split that a cluster says it has in force, in the order of clusters; nil where it says none, or names one of
// which nothing is known here.
func rowIn(clusters []mesh.ClusterName, of mesh.ClusterName, shares []mesh.Share) []float64 {
	if len(shares) == 0 {
		return nil
	}
	row, sum := make([]float64, len(clusters)), 0.0
	for _, s := range shares {
		i, known := slices.BinarySearch(clusters, cmp.Or(s.Cluster, of))
		if !known {
			return nil
		}
		row[i] += float64(s.Parts)
		sum += float64(s.Parts)
	}
	if sum == 0 {
		return nil
	}
	for i := range row {
		row[i] /= sum
	}
	return row
}

// round turns a row into shares that sum up to AllParts, without those that get nothing.
func round(clusters []mesh.ClusterName, row []float64) []mesh.Share {
	var out []mesh.Share
	left, most := int(mesh.AllParts), -1
	for j, x := range row {
		if parts := int(math.Round(x * mesh.AllParts)); parts > 0 {
			out = append(out, mesh.Share{Cluster: clusters[j], Parts: uint32(parts)})
			left -= parts
			if most < 0 || out[most].Parts < uint32(parts) {
				most = len(out) - 1
			}
		}
	}
	if most >= 0 {
		out[most].Parts = uint32(int(out[most].Parts) + left)
	}
	slices.SortFunc(out, func(a, b mesh.Share) int { return strings.Compare(string(a.Cluster), string(b.Cluster)) })
	return out
}

// near reports whether two splits differ by no news: in no share by more than least, and in nobody's coming or going.
func near(a, b []mesh.Share, least uint32) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Cluster != b[i].Cluster || max(a[i].Parts, b[i].Parts)-min(a[i].Parts, b[i].Parts) > least {
			return false
		}
	}
	return true
}
