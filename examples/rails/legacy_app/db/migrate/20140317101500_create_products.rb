class CreateProducts < ActiveRecord::Migration[6.1]
  def change
    create_table :products do |t|
      t.string :name, limit: 255, null: false
      t.decimal :price, precision: 8, scale: 2, null: false, default: 0
      t.string :description
      # What the old warehouse calls it. The new application has no use for it.
      t.string :warehouse_code, limit: 20
      t.boolean :taxable, null: false, default: true
      t.timestamps
    end
  end
end
