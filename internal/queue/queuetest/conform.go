package queuetest

import (
	"testing"
)

// Conform runs the conformance suite over stores of the shelf.
func Conform(t *testing.T, shelf Shelf) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Shelf)
	}{
		{"a job's life", testLife},
		{"bytes come back as they were", testBytes},
		{"wrong submissions are refused", testRefusals},
		{"a repeated submission is one job", testRepeat},
		{"a finished prompt id can be used again", testReplace},
		{"only the person's own finished job is replaced", testReplaceConditions},
		{"prompt ids belong to a person", testPromptIDsArePersonal},
		{"concurrent repeats are one job", testConcurrentRepeat},
		{"concurrent bodies under one id are one job", testConcurrentClash},
		{"numbers", testNumbers},
		{"limits", testLimits},
		{"order of open jobs", testOpenOrder},
		{"credentials", testCredentials},

		{"a job is claimed as it is accepted", testPlaced},
		{"one claim wins", testOneClaimWins},
		{"fences only grow", testFencesGrow},
		{"a stale fence changes nothing", testStaleFence},
		{"the store has the last word", testLastWord},
		{"who goes away changes nothing", testGivenUp},
		{"a claim that can't be read is given back", testClaimGivenBack},
		{"leases", testLeases},
		{"release", testRelease},
		{"fail without a run", testFail},
		{"everything survives a restart", testRestart},
		{"announcements are in order", testAnnouncements},

		{"remove what waits", testRemove},
		{"withdraw what is staged", testWithdrawStaged},
		{"stop", testStop},
		{"history pages", testHistory},
		{"history in the order of the end", testHistoryOrder},
		{"history of large graphs", testLargeHistory},
		{"delete history", testDeleteHistory},
		{"lists", testLists},
		{"lists by duration", testListsByDuration},
		{"a list is whole while jobs end", testListWhileEnding},
		{"nobody sees others", testIsolation},
		{"operators", testOperators},

		{"priority", testClass},
		{"hold", testHold},
		{"deadlines", testDeadline},
		{"hold or claim", testHoldOrClaim},
		{"to the front", testToFront},
		{"reorder", testReorder},
		{"a repeated key is one job", testIdempotency},
		{"concurrent keys are one job", testConcurrentKey},
		{"who admits is asked", testAdmit},
		{"old jobs go", testRetention},
		{"modes", testModes},
		{"pauses", testPauses},
		{"cancel all of a person", testCancelUser},
		{"retry", testRetry},
		{"results that are kept out", testRejected},
		{"a queue moves to another store", testMove},
		{"everything at once", testChaos},
		{"the clock is set back", testClockBack},

		{"the store ranks", testStoreRank},
		{"the store keeps held jobs from running", testStoreHeld},
		{"the store knows keys", testStoreKeys},
		{"the store keeps settings", testStoreSettings},
		{"the store forgets what is old", testStorePrune},
		{"the store gives and takes records", testStoreRecords},
		{"an end without an outcome", testStoreNoOutcome},
		{"the store keeps attempts that are over", testStoreTries},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, shelf)
		})
	}
}
