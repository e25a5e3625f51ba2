terraform {
  required_version = ">= 1.8"

  required_providers {
    verda = {
      source  = "verda-cloud/verda"
      version = "~> 1.0"
    }
  }
}

# The credential comes from the environment: VERDA_CLIENT_ID and VERDA_CLIENT_SECRET. It needs the scope cloud-api-v1.
provider "verda" {}
