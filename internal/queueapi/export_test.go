package queueapi

// Sockets is how many sockets a person has open.
func (f *Face) Sockets(user string) int {
	f.lounge.mu.Lock()
	defer f.lounge.mu.Unlock()
	return f.lounge.people[user]
}
