package wheel

import "time"

// NewWithClock is New with a wall clock of the test's own; ticks follow the
// real (or synctest's) one.
func NewWithClock(now func() time.Time) *Wheel { return newWheel(now) }
