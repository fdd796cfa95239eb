package capacity

import "time"

// The constants of what applications report.
const (
	// leastBusy is below what a utilisation is no measure of what would be the most, and wellBusy from where it is a good one.
	leastBusy, wellBusy = 0.05, 0.5
	// reportShare is the weight of a window of reports of an application that is well busy.
	reportShare = 0.3
	// firm is how many windows with reports make an estimate, and lasts how long it holds while requests are answered without any.
	firm       = 3
	reportLast = 10 * time.Second
)

// Load is what an application said of itself in a window.
type Load struct {
	// Reports is how many there were; Utilisation their mean, 1 being all it has.
	Reports     int
	Utilisation float64
	// RPS is how many requests a second it says it serves, whoever asks, 0 unknown; EPS how many of them fail.
	RPS, EPS float64
}

// Reported is what an application bears by its own word: what it serves well, over how busy it says that makes it. The zero
// Reported knows nothing. It has one caller.
type Reported struct {
	rate   float64
	times  int
	silent time.Duration
}

// Look takes a window in, and says how many requests a second the application bears; 0 is unknown. A window without answers
// changes nothing.
func (r *Reported) Look(w Window, l Load) float64 {
	switch {
	case w.Answered > 0 && l.Reports == 0:
		if r.silent += w.Over; r.silent > reportLast {
			*r = Reported{}
		}
	case l.Reports > 0 && w.Over > 0:
		r.silent = 0
		r.take(w, l)
	}
	if r.times < firm {
		return 0
	}
	return r.rate
}

func (r *Reported) take(w Window, l Load) {
	serves := l.RPS
	if serves == 0 {
		serves = w.Answered / w.Over.Seconds()
	}
	serves -= min(l.EPS, serves) // what fails is no work that is done
	if l.Utilisation < leastBusy || serves == 0 {
		return
	}
	bears := serves / l.Utilisation
	if r.times++; r.times == 1 {
		r.rate = bears
	}
	share := max(1/float64(r.times), reportShare)
	r.rate += share * min(1, l.Utilisation/wellBusy) * (bears - r.rate)
}
