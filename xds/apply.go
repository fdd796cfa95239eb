package xds

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// errBackwards ends a stream whose server knows less than what was applied.
var errBackwards = errors.New("the server went back in time")

// apply hands a response to the handler and returns its answer.
func (c *Client) apply(r *response) (*request, error) {
	batch, err := c.batch(r)
	if err != nil {
		return nil, err
	}
	var refusals map[string]error
	if len(batch.Resources)+len(batch.Removed) > 0 || batch.Complete {
		refusals = c.cfg.Handler.Apply(batch)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	in := c.interest(r.typ)
	c.state.Batches++
	for _, res := range batch.Resources {
		if refusals[res.Name] == nil && in.wants(res.Name) {
			in.held[res.Name] = res.Version
		}
	}
	for _, name := range batch.Removed {
		delete(in.held, name)
	}
	in.complete = in.complete || batch.Complete
	if r.vector != nil {
		c.told = r.vector
	}
	answer := &request{typ: r.typ, nonce: r.nonce}
	refuse(answer, batch.Resources, refusals)
	c.state.Refused += len(answer.refused)
	return answer, nil
}

// batch is what the handler is given of a response: what is wanted still.
func (c *Client) batch(r *response) (Batch, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for cluster, at := range c.told {
		if now, ok := r.vector[cluster]; ok && now.Compare(at) < 0 {
			return Batch{}, fmt.Errorf("%w: it knows %q, applied was %q", errBackwards, r.vector, c.told)
		}
	}
	in := c.interest(r.typ)
	b := Batch{Type: r.typ, Vector: r.vector, Complete: r.complete}
	for _, res := range r.resources {
		if in.wants(res.Name) {
			b.Resources = append(b.Resources, res)
			delete(in.unsure, res.Name)
		}
	}
	for _, name := range r.removed {
		if in.wants(name) {
			b.Removed = append(b.Removed, name)
			delete(in.unsure, name)
		}
	}
	if r.complete && len(in.unsure) > 0 {
		b.Removed = slices.AppendSeq(b.Removed, maps.Keys(in.unsure))
		slices.Sort(b.Removed)
		in.unsure = nil
	}
	return b, nil
}

func (in *interest) wants(name string) bool { return in.want[name] || in.want[Wildcard] }

// Bounds of the reasons in a NACK; beyond, resources are named without one.
const (
	reasonMax  = 512
	reasonsMax = 256 << 10
)

// refuse makes an answer a NACK that names what was refused.
func refuse(r *request, of []Resource, why map[string]error) {
	size := 0
	for _, res := range of {
		err := why[res.Name]
		if err == nil {
			continue
		}
		reason := cut([]byte(err.Error()), reasonMax)
		if size += len(reason); size > reasonsMax {
			reason = ""
		}
		r.nack = true
		r.refused = append(r.refused, refusal{res.Name, reason})
	}
	if r.nack {
		r.message = fmt.Sprintf("%d of %d resources refused, first %s: %s", len(r.refused), len(of), r.refused[0].name, r.refused[0].message)
	}
}
