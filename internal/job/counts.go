package job

// Counts says how many jobs there are now, and how many ended since the program started.
type Counts struct {
	Pending int `json:"pending"`
	Running int `json:"running"` // staged ones too

	// Ended counts final states since the program started.
	Completed int `json:"completed"`
	Failed    int `json:"failed"`
	Cancelled int `json:"cancelled"`
}

// Add counts one more job in state s, or with n -1 one less.
func (c *Counts) Add(s State, n int) {
	switch s {
	case Pending:
		c.Pending += n
	case Running:
		c.Running += n
	case Completed:
		c.Completed += n
	case Failed:
		c.Failed += n
	case Cancelled:
		c.Cancelled += n
	}
}
