// Package near measures how like two words are, to ask what somebody meant.
package near

import "unicode/utf8"

// Distance is the number of letters to insert, delete or change to make b of a.
func Distance(a, b string) int {
	row := make([]int, utf8.RuneCountInString(b)+1)
	for j := range row {
		row[j] = j
	}
	for _, from := range a {
		corner, j := row[0], 0
		row[0]++
		for _, to := range b {
			j++
			change := corner
			if from != to {
				change++
			}
			corner = row[j]
			row[j] = min(row[j]+1, row[j-1]+1, change)
		}
	}
	return row[len(row)-1]
}
