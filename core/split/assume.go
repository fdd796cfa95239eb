package split

import "github.com/isthmus-mesh/isthmus/mesh"

// room is by how much a cluster bears more than it serves, if nothing says that it does not.
const room = 1.2

// Assume takes clusters of which nobody says what they bear for as good as the others are, endpoint for endpoint, where
// something is known of any: what is idle has met no limit, and is where requests should go. places are their ready endpoints, and what is served
// there without harm shows that there is room for more.
func Assume(in *Input, places []float64) {
	rate, lanes, of := 0.0, 0.0, 0.0
	for i := range in.Reports {
		if r := &in.Reports[i]; r.Capacity > 0 && places[i] > 0 {
			rate, lanes, of = rate+r.Capacity, lanes+r.Capacity*r.Service, of+places[i]
		}
	}
	if rate == 0 {
		return
	}
	for i := range in.Reports {
		r := &in.Reports[i]
		if r.Capacity > 0 || r.Age < 0 || places[i] <= 0 {
			continue
		}
		if r.Service <= 0 {
			r.Service = lanes / rate
		}
		r.Capacity, r.Source = max(rate/of*places[i], room*r.Rate), mesh.CapacityAssumed
	}
}
