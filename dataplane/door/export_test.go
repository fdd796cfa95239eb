package door

// Len is how many peers are remembered.
func (o *Offences) Len() int { return len(o.of.of) }
