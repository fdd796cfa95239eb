package balance

// Hashes that are the same in every process and version: tables of different proxies must agree,
// and sessions outlive a proxy. FNV-1a (the authors' 64-bit constants), finished by mix, as
// FNV alone spreads short inputs badly over the high bits.

const (
	hashSeed  = 0xcbf29ce484222325
	hashPrime = 0x100000001b3
)

func hashByte(h uint64, b byte) uint64 { return (h ^ uint64(b)) * hashPrime }

func hashString(h uint64, s string) uint64 {
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * hashPrime
	}
	return h
}

// HashBytes is the hash of a key, for Ask.Hash.
func HashBytes(b []byte) uint64 {
	h := uint64(hashSeed)
	for _, c := range b {
		h = (h ^ uint64(c)) * hashPrime
	}
	return mix(h)
}

// HashString is HashBytes of a string.
func HashString(s string) uint64 { return mix(hashString(hashSeed, s)) }

// mix is the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): each bit of the input
// moves each of the output.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// random is SplitMix64: the draws of one pick, out of the 64 bits that it was given.
type random uint64

func (r *random) next() uint64 {
	*r += 0x9e3779b97f4a7c15
	return mix(uint64(*r))
}

// float is a draw in [0, 1).
func (r *random) float() float64 { return float64(r.next()>>11) / (1 << 53) }

// below maps 32 random bits to [0, n).
func below(bits uint32, n int) int { return int(uint64(bits) * uint64(n) >> 32) }
