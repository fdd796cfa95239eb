package mesh

// Criticality says what a request is worth when not all can be served: the less critical go first. The four are
// those of Site Reliability Engineering (Beyer et al., O'Reilly 2016, chapter 21).
type Criticality string

// The criticalities. CriticalPlus is for what must go on in any case, Critical for what users see and the default,
// SheddablePlus for what may fail in part, such as batches, Sheddable for what often does.
const (
	CriticalPlus  Criticality = "critical-plus"
	Critical      Criticality = "critical"
	SheddablePlus Criticality = "sheddable-plus"
	Sheddable     Criticality = "sheddable"
)

// DefaultCriticality is that of a request of which nobody says any.
const DefaultCriticality = Critical

// Criticalities are all, the least critical first.
var Criticalities = [...]Criticality{Sheddable, SheddablePlus, Critical, CriticalPlus}

// ParseCriticality reads a name, in upper or lower case and with - or _ between words; ok is false for any other.
func ParseCriticality(name []byte) (c Criticality, ok bool) {
	for _, c := range Criticalities {
		if len(c) != len(name) {
			continue
		}
		same := true
		for i := range name {
			b := name[i]
			switch {
			case b >= 'A' && b <= 'Z':
				b += 'a' - 'A'
			case b == '_':
				b = '-'
			}
			same = same && b == c[i]
		}
		if same {
			return c, true
		}
	}
	return "", false
}
