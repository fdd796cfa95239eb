// Package balance decides where a request goes: which cluster, which endpoint, and
// with what reason each candidate was kept or dropped. Its one idea is that all of it is
// arithmetic on values: time and chance are arguments, so that the proxy, the explanation
// and the simulator run the same code.
//
// It opens no connection, matches no route and knows no policy object: it takes
// what core/compile made of them. Read View and Pick first, then chooser for the algorithms
// table for consistent hashing, and SetSplit for the shares of clusters; SlotTable's keeper is NextSlots.
package balance
