package relay

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/control/peer"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// waiting is an offer that notes whether it was taken; a stream that has ended takes no header.
type waiting struct {
	peer.OfferedStream
	ctx   context.Context
	taken chan struct{}
	gone  error
}

func (w *waiting) Context() context.Context { return w.ctx }

func (w *waiting) SendHeader(metadata.MD) error {
	if w.gone == nil {
		close(w.taken)
	}
	return w.gone
}

func offers(t *testing.T, h *Hub, w *waiting) <-chan error {
	w.ctx, w.taken = t.Context(), make(chan struct{})
	ended := make(chan error, 1)
	go func() { ended <- h.Offer(peer.Call{Caller: "ap", Owner: "ap", Consumer: "us"}, w) }()
	synctest.Wait()
	return ended
}

// TestWhoWantsFactsWaitsForAnOffer: one that comes in time is taken, and only by whom it is for.
func TestWhoWantsFactsWaitsForAnOffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub(clock.Real{})
		other := make(chan error, 1)
		go func() {
			_, _, err := h.Take(t.Context(), "ap", "eu")
			other <- err
		}()
		taken := make(chan func(), 1)
		go func() {
			_, end, err := h.Take(t.Context(), "ap", "us")
			if err != nil {
				t.Error(err)
			}
			taken <- end
		}()
		synctest.Wait()
		w := &waiting{}
		ended := offers(t, h, w)
		end := <-taken
		<-w.taken
		end()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the offer ended with %v", err)
		}
		if err := <-other; status.Code(err) != codes.Unavailable {
			t.Errorf("who was offered nothing got %v, want Unavailable", err)
		}
		if left := len(h.offers); left != 0 {
			t.Errorf("%d offers are left", left)
		}
	})
}

// TestOffersThatWaitAreBounded: one more ends the oldest; and one whose stream has ended is passed over.
func TestOffersThatWaitAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub(clock.Real{})
		var all []*waiting
		var ended []<-chan error
		for i := range offersMax + 1 {
			w := &waiting{}
			if i == offersMax {
				w.gone = errors.New("gone")
			}
			all, ended = append(all, w), append(ended, offers(t, h, w))
		}
		if err := <-ended[0]; status.Code(err) != codes.ResourceExhausted {
			t.Errorf("the oldest ended with %v, want ResourceExhausted", err)
		}
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		_, end, err := h.Take(ctx, "ap", "us")
		if err != nil {
			t.Fatal(err)
		}
		<-all[offersMax-1].taken
		end()
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, o := range h.offers[pair{"ap", "us"}] {
			o.end(nil)
		}
	})
}
