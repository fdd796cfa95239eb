package split

// Predict is what each cluster would serve, in requests a second, if the problem were solved from nothing and what comes out were
// followed at once: what somebody wants to know before a cluster is taken away. The strategy and the law count as ever.
func Predict(in *Input) []float64 {
	ask := *in
	ask.Free = true
	s, _ := Step(State{}, &ask)
	n := len(in.Reports)
	out := make([]float64, n)
	for i := range n {
		for j, x := range s.Row(i) {
			out[j] += x * in.Reports[i].Demand
		}
	}
	return out
}
