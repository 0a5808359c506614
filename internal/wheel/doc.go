// Package wheel holds the deadlines of a million connections: expiries, idle
// times, lifetimes.
//
// Deadlines are wall-clock times, because tokens say when they end in wall-clock
// time. A timer never fires before the wall clock reads its deadline, and when
// the clock runs steadily at most one tick of 50 ms after (the scheduler's own
// lateness aside). The wheel sleeps until the first tick at which something is
// due, but while anything is armed it looks at the wall clock every 200 ms. After
// a step in either direction, or a suspend, which is a step forward, it finds the
// clock elsewhere than it left it and sorts every timer anew; so a step makes
// nobody more than 200 ms late, and no clock but time.Now is needed.
//
// The timers are in shards, each a hierarchical wheel of its own: arming and
// stopping cost the same however many there are, and the lock of a shard is
// held for a list operation. Timers are intrusive: embedded in their owner,
// nothing is allocated. Expiry runs without locks, on as many goroutines as
// there are processors, so that a hundred thousand at once do not wait in one
// line; and Run, which the owner starts and waits for, sleeps while nothing is
// armed.
//
// What an expiry means is the owner's business: the root ends connections, the
// relay pings idle ones.
package wheel
