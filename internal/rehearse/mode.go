package rehearse

import (
	"github.com/ahelme/comfyume/internal/sched"
)

// Mode is how the schedule chooses.
type Mode struct {
	Order    sched.Order
	Affinity bool // a job may go before its turn where its model is loaded
}

// Orders are the schedule's orders.
func Orders() []sched.Order {
	return []sched.Order{sched.FIFO, sched.RoundRobin, sched.Priority, sched.Fair}
}

// Modes returns each order without and with affinity.
func Modes() (list []Mode) {
	for _, o := range Orders() {
		list = append(list, Mode{o, false}, Mode{o, true})
	}
	return list
}

// String names the mode, like "fair" or "fair, no affinity".
func (m Mode) String() string {
	if m.Affinity {
		return string(m.Order)
	}
	return string(m.Order) + ", no affinity"
}
