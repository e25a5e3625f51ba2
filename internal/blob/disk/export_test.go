package disk

// StoreError is storeError for the tests: no test can fill a disk everywhere.
var StoreError = storeError
