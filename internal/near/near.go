// Package near finds out what somebody meant who typed something like it.
package near

// Best returns the candidate that word was probably meant to be, or "". Letters in each other's place count as one slip.
func Best(word string, candidates []string) string {
	best, limit := "", max(2, len(word)/3)
	for _, c := range candidates {
		if d := distance(word, c, 1); d <= limit && d < len(c) {
			best, limit = c, d-1
		}
	}
	return best
}

// Distance is the number of letters to insert, delete or change to make b of a.
func Distance(a, b string) int {
	return distance(a, b, 2) // to swap two letters is to change both
}

// distance is Distance, where to swap two letters counts as much as is said.
func distance(a, b string, swap int) int {
	from, to := []rune(a), []rune(b)
	before, row := make([]int, len(to)+1), make([]int, len(to)+1)
	for j := range row {
		row[j] = j
	}
	for i := range from {
		earlier := before
		before, row = row, make([]int, len(to)+1)
		row[0] = i + 1
		for j := range to {
			change := before[j]
			if from[i] != to[j] {
				change++
			}
			row[j+1] = min(before[j+1]+1, row[j]+1, change)
			if i > 0 && j > 0 && from[i] == to[j-1] && from[i-1] == to[j] {
				row[j+1] = min(row[j+1], earlier[j-1]+swap)
			}
		}
	}
	return row[len(to)]
}
