package localmesh

import (
	"fmt"
	"time"

	"github.com/isthmus-mesh/isthmus/localmesh/link"
)

func (r *running) stats() (link.Stats, error) {
	client, err := link.Dial(r.t.Context(), r.summary.Sockets["west--east"])
	if err != nil {
		return link.Stats{}, err
	}
	return client.Stats(r.t.Context())
}

// linkStats compares the states of the two directions.
func (r *running) linkStats() func(aToB, bToA string) error {
	return func(aToB, bToA string) error {
		s, err := r.stats()
		if err == nil && (s.AtoB.State != aToB || s.BtoA.State != bToA) {
			err = fmt.Errorf("the link is %s and %s, want %s and %s", s.AtoB.State, s.BtoA.State, aToB, bToA)
		}
		return err
	}
}

func (r *running) shape(rtt time.Duration, loss float64, bandwidth int64) error {
	s, err := r.stats()
	if want := (link.Shape{RTT: rtt, Loss: loss, Bandwidth: bandwidth}); err == nil && s.Shape != want {
		err = fmt.Errorf("shape %+v, want %+v", s.Shape, want)
	}
	return err
}
