// Package capacity says how many requests a second an application bears, where its owner does not. Its one idea is
// that only an application that had its limit before it says anything: what is idle bears at least what it answers, and
// nothing more is known. So a Learner tells four things apart by throughput, time and the number of requests that are there:
//
//   - harmless: requests take what they usually do. What was answered meanwhile is a floor.
//   - busy: some are refused, or they take longer, and more of them are answered than ever harmlessly, or they grow in number window after
//     window, or as many are answered as made it busy before. Then what is answered is near what it bears: the wait, as
//     a part of the usual time, says how near (Sakasegawa's queue, as core/split has it).
//   - slow: they take longer, and nothing else of that. The application has become slower, or calls what has; usual is what
//     it takes now, by and by.
//   - not busy any more: as many are answered as were thought the most, and nobody waits. It bears more.
//
// An estimate is as sure as it was seen often, lately. A standstill of half a second, a busy processor, one endpoint that is slow
// are seen once or by one; what that makes of a cluster is control/load's to say.
//
// It reads no clock, and refuses nothing (core/admission does). Read Window, then Learner.Look, then Reported for
// applications that say themselves how busy they are.
package capacity
